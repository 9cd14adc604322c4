"""EventLogService: takes what happened in other services."""

from __future__ import annotations

from typing import Any

from guildmesh.scheduler.v1 import event_log_service_pb2 as pb
from guildmesh.scheduler.v1 import event_log_service_pb2_grpc as pb_grpc

from services.common.context import current_call
from services.common.validation import validate_each
from services.scheduler.domain.events import ToolCalled, ToolReturned
from services.scheduler.domain.told import Told
from services.scheduler.domain.worker import Refusal
from services.scheduler.usecases.append_events import AppendEvents

SERVICE = "guildmesh.scheduler.v1.EventLogService"


class EventLogServicer(pb_grpc.EventLogServiceServicer):
    """Serves guildmesh.scheduler.v1.EventLogService."""

    def __init__(self, append_events: AppendEvents) -> None:
        self._append_events = append_events

    async def AppendEvents(self, request: pb.AppendEventsRequest, context: Any) -> pb.AppendEventsResponse:
        """Numbers events; those that break a rule are answered for themselves."""
        source = current_call().peer
        problems = validate_each(request, "events")
        told = [_told(event, source) for event, problem in zip(request.events, problems, strict=True) if problem is None]
        answers = iter(await self._append_events.execute(told))
        given = [next(answers) if problem is None else Refusal("INVALID_ARGUMENT", problem.message) for problem in problems]
        return pb.AppendEventsResponse(answers=map(_answer, given))


def _told(event: pb.AppendedEvent, source: str) -> Told:
    change = (
        ToolCalled(source, event.source_id, event.tool_called.SerializeToString())
        if event.HasField("tool_called")
        else ToolReturned(source, event.source_id, event.tool_returned.SerializeToString())
    )
    return Told(event.tenant_id, event.task_id.lower(), event.attempt, event.follows, event.actor, change)


def _answer(answer: int | Refusal) -> pb.AppendAnswer:
    if isinstance(answer, Refusal):
        return pb.AppendAnswer(reason=answer.reason, message=answer.message)
    return pb.AppendAnswer(number=answer)
