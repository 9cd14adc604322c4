"""DeadLetterService: each method converts, calls its use case, converts back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import Any

from guildmesh.scheduler.v1 import dead_letter_pb2, task_pb2
from guildmesh.scheduler.v1 import dead_letter_service_pb2 as pb
from guildmesh.scheduler.v1 import dead_letter_service_pb2_grpc as pb_grpc

from services.common.context import current_call
from services.scheduler.domain.dead_letter_filter import parse_dead_letter_filter
from services.scheduler.server.convert import moment, task_message
from services.scheduler.server.dead_letter_convert import dead_letter_message
from services.scheduler.usecases.delete_dead_letters import DeleteDeadLetters
from services.scheduler.usecases.get_dead_letter import GetDeadLetter
from services.scheduler.usecases.list_dead_letters import ListDeadLetters
from services.scheduler.usecases.replay_dead_letters import ReplayDeadLetters
from services.scheduler.usecases.replay_task import ReplayTask


@dataclass(frozen=True, slots=True)
class DeadLetterUseCases:
    """What the servicer calls."""

    list_dead_letters: ListDeadLetters
    get_dead_letter: GetDeadLetter
    replay_task: ReplayTask
    replay_dead_letters: ReplayDeadLetters
    delete_dead_letters: DeleteDeadLetters


class DeadLetterServicer(pb_grpc.DeadLetterServiceServicer):
    """Serves guildmesh.scheduler.v1.DeadLetterService."""

    def __init__(self, use_cases: DeadLetterUseCases) -> None:
        self._use_cases = use_cases

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, context: Any) -> pb.ListDeadLettersResponse:
        """Gives a page of dead letters."""
        wanted = parse_dead_letter_filter(request.filter)
        letters, token = await self._use_cases.list_dead_letters.execute(
            _tenant(), request.queue, wanted, request.page_size, request.page_token
        )
        return pb.ListDeadLettersResponse(dead_letters=map(dead_letter_message, letters), next_page_token=token)

    async def GetDeadLetter(self, request: pb.GetDeadLetterRequest, context: Any) -> dead_letter_pb2.DeadLetter:
        """Gives a dead letter."""
        return dead_letter_message(await self._use_cases.get_dead_letter.execute(_tenant(), request.task_id))

    async def ReplayTask(self, request: pb.ReplayTaskRequest, context: Any) -> task_pb2.Task:
        """Replays one task."""
        principal = current_call().principal
        replay = await self._use_cases.replay_task.execute(
            principal.tenant_id, request.task_id, principal.subject, again=request.again, request_id=request.request_id
        )
        return task_message(replay)

    async def ReplayDeadLetters(self, request: pb.ReplayDeadLettersRequest, context: Any) -> pb.ReplayDeadLettersResponse:
        """Replays many."""
        principal, wanted = current_call().principal, parse_dead_letter_filter(request.filter)
        before = moment(request.failed_before, "failed_before") if request.HasField("failed_before") else None
        done = await self._use_cases.replay_dead_letters.execute(
            principal.tenant_id, request.queue, wanted, before, request.limit, principal.subject
        )
        replays = [pb.DeadLetterReplay(task_id=task_id, replay_task_id=replay_id) for task_id, replay_id in done.replayed]
        answer = pb.ReplayDeadLettersResponse(replays=replays, left=done.left)
        answer.failed_before.FromDatetime(done.failed_before.astimezone(UTC))
        return answer

    async def DeleteDeadLetters(self, request: pb.DeleteDeadLettersRequest, context: Any) -> pb.DeleteDeadLettersResponse:
        """Dismisses many."""
        wanted = parse_dead_letter_filter(request.filter)
        deleted, left = await self._use_cases.delete_dead_letters.execute(_tenant(), request.queue, wanted)
        return pb.DeleteDeadLettersResponse(deleted=deleted, left=left)


def _tenant() -> str:
    return current_call().principal.tenant_id
