"""Between the messages of the contract and the domain."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import NULL_VALUE, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.tool.v1 import tool_service_pb2 as pb

from services.common.json_values import JsonObject, JsonValue
from services.common.structs import json_to_struct, json_to_value, struct_to_json
from services.tool.domain.model import DEFAULT_TIME_LIMIT, JSON, Effect, Execution, Tool, UsageState
from services.tool.usecases.execute_tool import Executed, ToolCall

_EFFECTS = {
    Effect.PURE: pb.TOOL_EFFECT_PURE,
    Effect.IDEMPOTENT: pb.TOOL_EFFECT_IDEMPOTENT,
    Effect.ONCE: pb.TOOL_EFFECT_ONCE,
}
_STATES = {
    UsageState.RUNNING: pb.TOOL_USAGE_STATE_RUNNING,
    UsageState.ENDED: pb.TOOL_USAGE_STATE_ENDED,
    UsageState.UNKNOWN: pb.TOOL_USAGE_STATE_UNKNOWN,
}


def tool_from_proto(tool: pb.Tool) -> Tool:
    """The tool to register; an unspecified effect is ONCE, the most careful one."""
    effects = {number: effect for effect, number in _EFFECTS.items()}
    return Tool(
        tool_name=tool.tool_name,
        description=tool.description,
        input_schema=_object(tool.input_schema),
        effect=effects.get(tool.effect, Effect.ONCE),
        source=tool.source,
    )


def tool_to_proto(tool: Tool) -> pb.Tool:
    """The message of a tool."""
    return pb.Tool(
        tool_name=tool.tool_name,
        description=tool.description,
        input_schema=_struct(tool.input_schema),
        effect=_EFFECTS[tool.effect],
        source=tool.source,
        built_in=tool.built_in,
        create_time=_timestamp(tool.create_time),
    )


def call_from_proto(request: pb.ExecuteToolRequest) -> ToolCall:
    """The call to run."""
    return ToolCall(
        tool_name=request.tool_name,
        arguments=_object(request.arguments),
        time_limit=request.timeout.ToTimedelta().total_seconds() if request.HasField("timeout") else DEFAULT_TIME_LIMIT,
        task_id=request.task_id,
        attempt=request.attempt,
        step_id=request.step_id,
    )


def executed_to_proto(executed: Executed) -> pb.ExecuteToolResponse:
    """The answer to a call."""
    outcome = executed.outcome
    return pb.ExecuteToolResponse(
        execution_id=executed.execution_id,
        success=outcome.success,
        output=outcome.output,
        exit_code=outcome.exit_code,
        error=outcome.error,
        result=_value(outcome.result),
        duration=_duration(outcome.seconds),
        replayed=executed.replayed,
    )


def usage_to_proto(execution: Execution) -> pb.ToolUsage:
    """The record of an execution."""
    outcome = execution.outcome
    return pb.ToolUsage(
        execution_id=execution.execution_id,
        tool_name=execution.tool_name,
        username=execution.username,
        task_id=execution.task_id,
        step_id=execution.step_id,
        arguments=_struct(execution.arguments),
        state=_STATES[execution.state],
        success=outcome is not None and outcome.success,
        result=_value(outcome.result if outcome else None),
        error=outcome.error if outcome else "",
        duration=_duration(outcome.seconds) if outcome else None,
        create_time=_timestamp(execution.create_time),
        log_refusal=execution.log_refusal,
    )


def _object(struct: Struct) -> Mapping[str, JSON]:
    return cast(Mapping[str, JSON], struct_to_json(struct))


def _struct(value: Mapping[str, JSON]) -> Struct:
    return json_to_struct(cast(JsonObject, value))


def _value(value: JSON) -> Value:
    return Value(null_value=NULL_VALUE) if value is None else json_to_value(cast(JsonValue, value))


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
