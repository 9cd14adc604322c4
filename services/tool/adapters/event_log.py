"""The log of tasks, which the scheduler keeps."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from guildmesh.scheduler.v1 import event_log_service_pb2 as pb
from guildmesh.scheduler.v1 import event_log_service_pb2_grpc as pb_grpc

from services.common.errors import DependencyUnavailable
from services.common.failpoints import fail_point
from services.tool.domain.told import EventRefused, LogEvent

_SECONDS = 10.0
# What no repeat changes: a message that is too large, or that breaks a rule.
_FINAL = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED})


class SchedulerEventLog:
    """Implements the port EventLog."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: pb_grpc.EventLogServiceAsyncStub = pb_grpc.EventLogServiceStub(channel)

    async def append(self, events: Sequence[LogEvent]) -> Sequence[str]:
        """See EventLog."""
        request = pb.AppendEventsRequest(events=[pb.AppendedEvent.FromString(event.payload) for event in events])
        await fail_point("tool.append.before_send")
        try:
            response = await self._stub.AppendEvents(request, timeout=_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() in _FINAL:
                raise EventRefused(error.details() or error.code().name) from error
            raise DependencyUnavailable("scheduler") from error
        await fail_point("tool.append.after_answer")
        return [answer.reason for answer in response.answers]
