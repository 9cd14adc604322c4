"""BackfillSchedule: starts the runs of a time that is over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.common.errors import InvalidRequest
from services.scheduler.domain.errors import RequestIdReused
from services.scheduler.domain.ports import MakeTask, ScheduleStore
from services.scheduler.domain.schedule import Schedule
from services.scheduler.domain.task import NewTask, Task


class BackfillSchedule:
    """Backfills schedules."""

    def __init__(self, store: ScheduleStore, make_task: MakeTask) -> None:
        self._store = store
        self._make_task = make_task

    async def execute(
        self, tenant_id: str, schedule_id: str, first: datetime, last: datetime, request_id: str, subject: str
    ) -> Sequence[Task]:
        """The tasks of the runs from `first` to `last`, the oldest first; a repeat with a request id gives the first answer.

        Raises:
            ScheduleNotFound, QueueNotFound, RequestIdReused, BackfillTooLarge; InvalidRequest for a time that is not over.
        """

        def runs(schedule: Schedule, now: datetime) -> Sequence[NewTask]:
            if last > now:
                raise InvalidRequest([("end_time", "must not be in the future")])
            return [
                self._make_task(schedule, time, subject, schedule.request_id("backfill", request_id, time) if request_id else "")
                for time in schedule.within(first, last)
            ]

        if last < first:
            raise InvalidRequest([("end_time", "must not be before start_time")])
        try:
            return await self._store.start(tenant_id, schedule_id, runs)
        except RequestIdReused:
            # Told with the caller's own id, not with the ones that were made of it.
            raise RequestIdReused(request_id) from None
