"""What is told of a run, written with the row of the ledger that it tells of: to the log of its task, and as a record of use."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.struct_pb2 import NULL_VALUE, Value
from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.events.v1 import task_event_pb2 as events_pb
from guildmesh.events.v1 import tool_usage_pb2 as usage_pb
from guildmesh.scheduler.v1 import event_log_service_pb2 as log_pb
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.structs import json_to_value
from services.tool.domain.lanes import CHANNEL, LOG_LANES
from services.tool.domain.model import Execution, Outcome, RunOutcome

MOST_RESULT = 64 << 10
"""bytes of JSON of a result that an event carries."""
_MOST_ERROR = 2000
_OUTCOMES = {
    RunOutcome.SUCCEEDED: usage_pb.TOOL_OUTCOME_SUCCEEDED,
    RunOutcome.FAILED: usage_pb.TOOL_OUTCOME_FAILED,
    RunOutcome.UNKNOWN: usage_pb.TOOL_OUTCOME_UNKNOWN,
    RunOutcome.NOT_RUN: usage_pb.TOOL_OUTCOME_NOT_RUN,
}
_TO_THE_LOG = text(
    """
    INSERT INTO log_outbox (lane, tenant_id, execution_id, payload)
    VALUES (:lane, :tenant_id, CAST(:execution_id AS uuid), :payload)
    """
)
_TO_KAFKA = text(
    """
    INSERT INTO usage_outbox (tenant_id, usage_id, traceparent, payload)
    VALUES (:tenant_id, :usage_id, :traceparent, :payload)
    """
)
_WAKE = text("SELECT pg_notify(:channel, '')")
_NOW = text("SELECT clock_timestamp()")


async def tell_called(connection: AsyncConnection, tenant_id: str, execution: Execution) -> None:
    """Tells that a run is about to begin, in the transaction that writes it down."""
    if not execution.logged:
        return
    called = events_pb.TaskToolCalled(
        execution_id=execution.execution_id,
        run=execution.run,
        attempt=execution.attempt,
        tool_name=execution.tool_name,
        effect=execution.effect.name,
        step_id=execution.step_id,
        arguments_bytes=_size(execution.arguments),
        call_time=_timestamp(execution.begin_time),
        traceparent=execution.traceparent,
    )
    await _to_the_log(connection, tenant_id, execution, _called_id(execution), "", tool_called=called)
    await connection.execute(_WAKE, {"channel": CHANNEL})


async def tell_returned(
    connection: AsyncConnection,
    tenant_id: str,
    execution: Execution,
    came_of_it: RunOutcome,
    outcome: Outcome | None = None,
    *,
    late: bool = False,
) -> None:
    """Tells what came of a run, in the transaction that writes it down.

    Args:
        connection: of that transaction, of the tenant or over all of them.
        tenant_id: of the execution.
        execution: as its row is.
        came_of_it: in a word.
        outcome: in full, of a run that ended.
        late: whether it was told already that the run's outcome is not known.
    """
    name = "outcome" if late else "returned"
    if execution.logged:
        returned = events_pb.TaskToolReturned(
            execution_id=execution.execution_id,
            run=execution.run,
            attempt=execution.attempt,
            tool_name=execution.tool_name,
            step_id=execution.step_id,
            outcome=_OUTCOMES[came_of_it],
            traceparent=execution.traceparent,
        )
        if outcome is not None:
            _fill(returned, outcome)
            returned.error = outcome.error[:_MOST_ERROR]
            if returned.result_bytes <= MOST_RESULT:
                returned.result.CopyFrom(_value(outcome))
        source_id = f"{execution.execution_id}/{execution.run}/{name}"
        await _to_the_log(connection, tenant_id, execution, source_id, _called_id(execution), tool_returned=returned)
    if came_of_it is not RunOutcome.NOT_RUN:
        await _to_kafka(connection, tenant_id, execution, came_of_it, outcome, late=late)
    await connection.execute(_WAKE, {"channel": CHANNEL})


async def tell_cut_off(connection: AsyncConnection, cut_off: Sequence[tuple[str, Execution]]) -> None:
    """Tells of runs, each with its tenant, that their outcome is not known."""
    for tenant_id, execution in cut_off:
        await tell_returned(connection, tenant_id, execution, RunOutcome.UNKNOWN)


def _called_id(execution: Execution) -> str:
    return f"{execution.execution_id}/{execution.run}/called"


async def _to_the_log(
    connection: AsyncConnection,
    tenant_id: str,
    execution: Execution,
    source_id: str,
    follows: str,
    **change: events_pb.TaskToolCalled | events_pb.TaskToolReturned,
) -> None:
    event = log_pb.AppendedEvent(
        tenant_id=tenant_id,
        task_id=execution.task_id,
        attempt=execution.attempt,
        source_id=source_id,
        follows=follows,
        actor=execution.username or "service:tool",
        **change,  # type: ignore[arg-type]
    )
    values = {
        # The events of a task go one way, so they stay in order.
        "lane": zlib.crc32(execution.task_id.lower().encode()) % LOG_LANES,
        "tenant_id": tenant_id,
        "execution_id": execution.execution_id,
        "payload": event.SerializeToString(),
    }
    await connection.execute(_TO_THE_LOG, values)


async def _to_kafka(
    connection: AsyncConnection,
    tenant_id: str,
    execution: Execution,
    came_of_it: RunOutcome,
    outcome: Outcome | None,
    *,
    late: bool,
) -> None:
    usage = usage_pb.ToolUsage(
        execution_id=execution.execution_id,
        run=execution.run,
        tenant_id=tenant_id,
        principal=execution.username,
        tool_name=execution.tool_name,
        effect=execution.effect.name,
        task_id=execution.task_id,
        step_id=execution.step_id,
        attempt=execution.attempt,
        outcome=_OUTCOMES[came_of_it],
        arguments_bytes=_size(execution.arguments),
        call_time=_timestamp(execution.begin_time),
        end_time=_timestamp((await connection.execute(_NOW)).scalar_one()),
    )
    if outcome is not None:
        _fill(usage, outcome)
    values = {
        "tenant_id": tenant_id,
        "usage_id": f"{execution.execution_id}/{execution.run}{'/outcome' if late else ''}",
        "traceparent": execution.traceparent,
        "payload": usage.SerializeToString(),
    }
    await connection.execute(_TO_KAFKA, values)


def _fill(message: events_pb.TaskToolReturned | usage_pb.ToolUsage, outcome: Outcome) -> None:
    message.exit_code = outcome.exit_code
    message.duration.FromNanoseconds(int(outcome.seconds * 1e9))
    message.output_bytes = len(outcome.output.encode())
    message.result_bytes = _size(outcome.result)


def _value(outcome: Outcome) -> Value:
    return Value(null_value=NULL_VALUE) if outcome.result is None else json_to_value(outcome.result)  # type: ignore[arg-type]


def _size(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment.astimezone(UTC))
    return timestamp
