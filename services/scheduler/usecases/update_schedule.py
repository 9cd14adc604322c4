"""UpdateSchedule: changes what somebody may change of a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from services.scheduler.domain.errors import EtagMismatch
from services.scheduler.domain.ports import ScheduleStore
from services.scheduler.domain.schedule import Schedule
from services.scheduler.usecases.queues import Queues

_DECIDE_WHEN = {"cron", "time_zone", "start_time", "end_time", "paused"}


class UpdateSchedule:
    """Updates schedules."""

    def __init__(self, store: ScheduleStore, queues: Queues) -> None:
        self._store = store
        self._queues = queues

    async def execute(
        self, tenant_id: str, schedule_id: str, values: Mapping[str, object], queue: str | None, etag: str
    ) -> Schedule:
        """The schedule with new values by the names of its attributes; `queue` is the one of a new task, None for no new task.

        Raises:
            ScheduleNotFound, EtagMismatch, InvalidCron, InvalidTimeZone, InvalidRequest, QueueNotFound, PayloadNotFound.
        """

        def change(schedule: Schedule, now: datetime) -> None:
            if etag not in ("", schedule.etag):
                raise EtagMismatch("schedule", schedule_id=schedule_id)
            before = {name: getattr(schedule, name) for name in values}
            for name, value in values.items():
                setattr(schedule, name, value)
            schedule.check()
            changed = {name for name, value in before.items() if value != values[name]}
            if changed & _DECIDE_WHEN:
                schedule.plan(now)
            elif "jitter" in changed:
                schedule.move(schedule.next_time)
            schedule.changed(now)

        if queue is not None:
            await self._queues.of(tenant_id, queue)
        return await self._store.change(tenant_id, schedule_id, change)
