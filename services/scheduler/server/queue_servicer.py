"""QueueService: each method converts, calls its use case, converts back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.empty_pb2 import Empty
from guildmesh.scheduler.v1 import queue_pb2
from guildmesh.scheduler.v1 import queue_service_pb2 as pb
from guildmesh.scheduler.v1 import queue_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as tasks_pb

from services.common.context import current_call
from services.common.errors import RoleRequired
from services.scheduler.domain.queue import Queue
from services.scheduler.domain.task import State
from services.scheduler.server.queue_convert import counts_message, new_queue, queue_changes, queue_message
from services.scheduler.usecases.count_own_tasks import OPEN, CountOwnTasks
from services.scheduler.usecases.count_tasks import CountTasks
from services.scheduler.usecases.create_queue import CreateQueue
from services.scheduler.usecases.delete_queue import DeleteQueue
from services.scheduler.usecases.get_queue import GetQueue
from services.scheduler.usecases.pause_queue import PauseQueue
from services.scheduler.usecases.update_queue import UpdateQueue

_OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class QueueUseCases:
    """What the servicer calls."""

    create_queue: CreateQueue
    get_queue: GetQueue
    update_queue: UpdateQueue
    delete_queue: DeleteQueue
    pause_queue: PauseQueue
    resume_queue: PauseQueue
    count_tasks: CountTasks
    count_own_tasks: CountOwnTasks


class QueueServicer(pb_grpc.QueueServiceServicer):
    """Serves guildmesh.scheduler.v1.QueueService."""

    def __init__(self, use_cases: QueueUseCases) -> None:
        self._use_cases = use_cases

    async def CreateQueue(self, request: pb.CreateQueueRequest, context: Any) -> queue_pb2.Queue:
        """Creates a queue."""
        tenant_id, operator = _caller()
        return _told(await self._use_cases.create_queue.execute(new_queue(request, tenant_id), operator=operator))

    async def GetQueue(self, request: pb.GetQueueRequest, context: Any) -> queue_pb2.Queue:
        """Gives a queue."""
        tenant_id, _ = _caller()
        return _told(await self._use_cases.get_queue.execute(tenant_id, request.queue, shared=request.shared))

    async def UpdateQueue(self, request: pb.UpdateQueueRequest, context: Any) -> queue_pb2.Queue:
        """Changes a queue."""
        tenant_id, operator = _caller()
        name, etag = request.queue.queue, request.queue.etag
        changed = await self._use_cases.update_queue.execute(
            tenant_id, name, queue_changes(request), etag, shared=request.shared, operator=operator
        )
        return _told(changed)

    async def DeleteQueue(self, request: pb.DeleteQueueRequest, context: Any) -> Empty:
        """Deletes a queue."""
        tenant_id, operator = _caller()
        await self._use_cases.delete_queue.execute(
            tenant_id, request.queue, request.etag, shared=request.shared, operator=operator
        )
        return Empty()

    async def PauseQueue(self, request: pb.PauseQueueRequest, context: Any) -> queue_pb2.Queue:
        """Pauses a queue."""
        tenant_id, operator = _caller()
        paused = self._use_cases.pause_queue.execute(tenant_id, request.queue, shared=request.shared, operator=operator)
        return _told(await paused)

    async def ResumeQueue(self, request: pb.ResumeQueueRequest, context: Any) -> queue_pb2.Queue:
        """Resumes a queue."""
        tenant_id, operator = _caller()
        resumed = self._use_cases.resume_queue.execute(tenant_id, request.queue, shared=request.shared, operator=operator)
        return _told(await resumed)

    async def CountQueuedTasks(self, request: pb.CountQueuedTasksRequest, context: Any) -> tasks_pb.CountTasksResponse:
        """Counts the caller's open tasks by queue and state, or all of the mesh."""
        tenant_id, operator = _caller()
        if not request.all_tenants:
            return counts_message(await self._use_cases.count_own_tasks.execute(tenant_id), OPEN)
        if not operator:
            raise RoleRequired(_OPERATOR)
        return counts_message(await self._use_cases.count_tasks.execute(), State)


def _caller() -> tuple[str, bool]:
    """The caller's tenant, and whether it is an operator."""
    principal = current_call().principal
    return principal.tenant_id, _OPERATOR in principal.roles


def _told(queue: Queue) -> queue_pb2.Queue:
    return queue_message(queue, weights=_caller()[1])
