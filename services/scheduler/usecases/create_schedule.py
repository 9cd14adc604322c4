"""CreateSchedule: keeps a schedule."""

from __future__ import annotations

from services.common.ids import new_id
from services.scheduler.domain.ports import ScheduleStore
from services.scheduler.domain.schedule import Schedule
from services.scheduler.usecases.queues import Queues


class CreateSchedule:
    """Creates schedules."""

    def __init__(self, store: ScheduleStore, queues: Queues) -> None:
        self._store = store
        self._queues = queues

    async def execute(self, schedule: Schedule, queue: str) -> Schedule:
        """The new schedule, whose tasks wait in `queue`; it gets an id when it has none.

        Raises:
            InvalidCron, InvalidTimeZone, InvalidRequest, QueueNotFound, PayloadNotFound, ScheduleExists,
            TooManySchedules.
        """
        schedule.check()
        await self._queues.of(schedule.tenant_id, queue)
        schedule.uid = new_id()
        schedule.schedule_id = schedule.schedule_id or schedule.uid
        return await self._store.create(schedule)
