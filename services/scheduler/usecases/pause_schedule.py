"""PauseSchedule: keeps a schedule from starting runs."""

from __future__ import annotations

from datetime import datetime

from services.scheduler.domain.ports import ScheduleStore
from services.scheduler.domain.schedule import Schedule


class PauseSchedule:
    """Pauses schedules."""

    def __init__(self, store: ScheduleStore) -> None:
        self._store = store

    async def execute(self, tenant_id: str, schedule_id: str, note: str) -> Schedule:
        """The paused schedule; an empty note keeps the one that is there. Raises ScheduleNotFound."""

        def change(schedule: Schedule, now: datetime) -> None:
            schedule.note = note or schedule.note
            schedule.paused = True
            schedule.plan(now)
            schedule.changed(now)

        return await self._store.change(tenant_id, schedule_id, change)
