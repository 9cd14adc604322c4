"""DeleteSchedule: deletes a schedule, whose tasks go on."""

from __future__ import annotations

from services.scheduler.domain.ports import ScheduleStore


class DeleteSchedule:
    """Deletes schedules."""

    def __init__(self, store: ScheduleStore) -> None:
        self._store = store

    async def execute(self, tenant_id: str, schedule_id: str, etag: str) -> None:
        """Deletes it, with an etag only if nobody has changed it since; raises ScheduleNotFound or EtagMismatch."""
        await self._store.delete(tenant_id, schedule_id, etag)
