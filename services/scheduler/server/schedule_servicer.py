"""ScheduleService: each method converts, calls its use case, converts back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.empty_pb2 import Empty
from guildmesh.scheduler.v1 import schedule_pb2
from guildmesh.scheduler.v1 import schedule_service_pb2 as pb
from guildmesh.scheduler.v1 import schedule_service_pb2_grpc as pb_grpc

from services.common.context import current_call
from services.scheduler.server.convert import moment
from services.scheduler.server.schedule_convert import changes, new_schedule, schedule_message
from services.scheduler.usecases.backfill_schedule import BackfillSchedule
from services.scheduler.usecases.create_schedule import CreateSchedule
from services.scheduler.usecases.delete_schedule import DeleteSchedule
from services.scheduler.usecases.get_schedule import GetSchedule
from services.scheduler.usecases.list_schedules import ListSchedules
from services.scheduler.usecases.pause_schedule import PauseSchedule
from services.scheduler.usecases.resume_schedule import ResumeSchedule
from services.scheduler.usecases.trigger_schedule import TriggerSchedule
from services.scheduler.usecases.update_schedule import UpdateSchedule


@dataclass(frozen=True, slots=True)
class ScheduleUseCases:
    """What the servicer calls."""

    create_schedule: CreateSchedule
    get_schedule: GetSchedule
    list_schedules: ListSchedules
    update_schedule: UpdateSchedule
    delete_schedule: DeleteSchedule
    pause_schedule: PauseSchedule
    resume_schedule: ResumeSchedule
    trigger_schedule: TriggerSchedule
    backfill_schedule: BackfillSchedule


class ScheduleServicer(pb_grpc.ScheduleServiceServicer):
    """Serves guildmesh.scheduler.v1.ScheduleService."""

    def __init__(self, use_cases: ScheduleUseCases) -> None:
        self._use_cases = use_cases

    async def CreateSchedule(self, request: pb.CreateScheduleRequest, context: Any) -> schedule_pb2.Schedule:
        """Creates a schedule."""
        principal = current_call().principal
        schedule, queue = new_schedule(request, principal.tenant_id, principal.subject)
        return schedule_message(await self._use_cases.create_schedule.execute(schedule, queue))

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: Any) -> schedule_pb2.Schedule:
        """Gives a schedule."""
        return schedule_message(await self._use_cases.get_schedule.execute(_tenant(), request.schedule_id))

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: Any) -> pb.ListSchedulesResponse:
        """Gives a page of schedules."""
        found, token = await self._use_cases.list_schedules.execute(_tenant(), request.page_size, request.page_token)
        messages = [schedule_message(schedule, preview=False) for schedule in found]
        return pb.ListSchedulesResponse(schedules=messages, next_page_token=token)

    async def UpdateSchedule(self, request: pb.UpdateScheduleRequest, context: Any) -> schedule_pb2.Schedule:
        """Changes a schedule."""
        values, queue = changes(request)
        schedule_id, etag = request.schedule.schedule_id, request.schedule.etag
        return schedule_message(await self._use_cases.update_schedule.execute(_tenant(), schedule_id, values, queue, etag))

    async def DeleteSchedule(self, request: pb.DeleteScheduleRequest, context: Any) -> Empty:
        """Deletes a schedule."""
        await self._use_cases.delete_schedule.execute(_tenant(), request.schedule_id, request.etag)
        return Empty()

    async def PauseSchedule(self, request: pb.PauseScheduleRequest, context: Any) -> schedule_pb2.Schedule:
        """Pauses a schedule."""
        return schedule_message(await self._use_cases.pause_schedule.execute(_tenant(), request.schedule_id, request.note))

    async def ResumeSchedule(self, request: pb.ResumeScheduleRequest, context: Any) -> schedule_pb2.Schedule:
        """Resumes a schedule."""
        return schedule_message(await self._use_cases.resume_schedule.execute(_tenant(), request.schedule_id, request.note))

    async def TriggerSchedule(self, request: pb.TriggerScheduleRequest, context: Any) -> pb.TriggerScheduleResponse:
        """Starts one run now."""
        principal = current_call().principal
        task = await self._use_cases.trigger_schedule.execute(
            principal.tenant_id, request.schedule_id, request.request_id, principal.subject
        )
        return pb.TriggerScheduleResponse(task_id=task.task_id)

    async def BackfillSchedule(self, request: pb.BackfillScheduleRequest, context: Any) -> pb.BackfillScheduleResponse:
        """Starts the runs of a time that is over."""
        principal = current_call().principal
        first, last = moment(request.start_time, "start_time"), moment(request.end_time, "end_time")
        tasks = await self._use_cases.backfill_schedule.execute(
            principal.tenant_id, request.schedule_id, first, last, request.request_id, principal.subject
        )
        return pb.BackfillScheduleResponse(task_ids=[task.task_id for task in tasks])


def _tenant() -> str:
    return current_call().principal.tenant_id
