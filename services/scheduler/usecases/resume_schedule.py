"""ResumeSchedule: has a paused schedule start runs again."""

from __future__ import annotations

from datetime import datetime

from services.scheduler.domain.ports import ScheduleStore
from services.scheduler.domain.schedule import Schedule


class ResumeSchedule:
    """Resumes schedules."""

    def __init__(self, store: ScheduleStore) -> None:
        self._store = store

    async def execute(self, tenant_id: str, schedule_id: str, note: str) -> Schedule:
        """The schedule, with none of the runs that were due in the pause; one that was not paused goes on as it did.

        Raises:
            ScheduleNotFound; InvalidCron or InvalidTimeZone while it cannot run.
        """

        def change(schedule: Schedule, now: datetime) -> None:
            schedule.note = note or schedule.note
            if schedule.paused:
                schedule.paused = False
                schedule.check()
                schedule.last_error = ""
                schedule.plan(now)
            schedule.changed(now)

        return await self._store.change(tenant_id, schedule_id, change)
