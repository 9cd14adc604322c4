"""Tools of the tool service, for the current caller."""

from __future__ import annotations

import grpc
from google.protobuf.duration_pb2 import Duration
from guildmesh.tool.v1 import tool_service_pb2 as pb
from guildmesh.tool.v1 import tool_service_pb2_grpc as pb_grpc
from opentelemetry import trace

from services.agent.adapters.refusals import refusals
from services.agent.domain.work import ToolOutcome
from services.common.json_values import JsonObject
from services.common.structs import json_to_struct, value_to_json

_tracer = trace.get_tracer("guildmesh.agent")
# Bounds of ExecuteToolRequest.timeout, in seconds.
_SHORTEST, _LONGEST = 1.0, 300.0
# Time a sandbox takes to start and to be removed, beyond the tool's own.
_OVERHEAD_SECONDS = 30.0


class ToolServiceTools:
    """Implements Tools."""

    def __init__(self, channel: grpc.aio.Channel, timeout_seconds: float) -> None:
        """Over a channel.

        Args:
            channel: to the tool service.
            timeout_seconds: bound of one execution, when the caller's own is longer.
        """
        self._tool = pb_grpc.ToolServiceStub(channel)
        self._timeout = timeout_seconds

    async def execute(
        self, tool_name: str, arguments: JsonObject, *, task_id: str, attempt: int, step_id: str, timeout: float | None
    ) -> ToolOutcome:
        """Executes the tool under the ledger key (task_id, step_id)."""
        seconds = min(max(min(timeout or self._timeout, self._timeout), _SHORTEST), _LONGEST)
        limit = Duration()
        limit.FromNanoseconds(int(seconds * 1e9))
        request = pb.ExecuteToolRequest(
            tool_name=tool_name,
            arguments=json_to_struct(arguments),
            timeout=limit,
            task_id=task_id,
            attempt=attempt,
            step_id=step_id,
        )
        with _tracer.start_as_current_span(f"execute_tool {tool_name}") as span, refusals("tool"):
            span.set_attribute("gen_ai.operation.name", "execute_tool")
            span.set_attribute("gen_ai.tool.name", tool_name)
            answer = await self._tool.ExecuteTool(request, timeout=seconds + _OVERHEAD_SECONDS)
            if not answer.success:
                span.set_attribute("error.type", "tool_error")
        return ToolOutcome(answer.success, answer.output, answer.exit_code, answer.error, value_to_json(answer.result))
