"""TriggerSchedule: starts one run of a schedule now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.scheduler.domain.errors import RequestIdReused
from services.scheduler.domain.ports import MakeTask, ScheduleStore
from services.scheduler.domain.schedule import Schedule
from services.scheduler.domain.task import NewTask, Task


class TriggerSchedule:
    """Triggers schedules."""

    def __init__(self, store: ScheduleStore, make_task: MakeTask) -> None:
        self._store = store
        self._make_task = make_task

    async def execute(self, tenant_id: str, schedule_id: str, request_id: str, subject: str) -> Task:
        """The task of the run; a repeat with the same request id gives the first answer.

        Raises:
            ScheduleNotFound, QueueNotFound, RequestIdReused.
        """

        def runs(schedule: Schedule, now: datetime) -> Sequence[NewTask]:
            own = schedule.request_id("trigger", request_id) if request_id else ""
            return [self._make_task(schedule, None, subject, own)]

        try:
            return (await self._store.start(tenant_id, schedule_id, runs))[0]
        except RequestIdReused:
            # Told with the caller's own id, not with the one that was made of it.
            raise RequestIdReused(request_id) from None
