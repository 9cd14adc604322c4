"""GetSchedule: a schedule of the caller's tenant."""

from __future__ import annotations

from services.scheduler.domain.errors import ScheduleNotFound
from services.scheduler.domain.ports import ScheduleStore
from services.scheduler.domain.schedule import Schedule


class GetSchedule:
    """Gives one schedule."""

    def __init__(self, store: ScheduleStore) -> None:
        self._store = store

    async def execute(self, tenant_id: str, schedule_id: str) -> Schedule:
        """The schedule; raises ScheduleNotFound."""
        schedule = await self._store.get(tenant_id, schedule_id)
        if schedule is None:
            raise ScheduleNotFound(schedule_id)
        return schedule
