"""Rows of the effect ledger as domain objects."""

from __future__ import annotations

import json
from typing import Any

from services.tool.domain.model import Effect, Execution, Outcome, UsageState

_COMMON = """execution_id::text AS execution_id, tool_name, username, task_id, step_id, attempt, effect,
    arguments::text AS arguments, state, exit_code, error, result::text AS result, seconds, create_time,
    run, begin_time, traceparent, log_refusal"""
EXECUTION_COLUMNS = f"{_COMMON}, output, lease_until < clock_timestamp() AS lease_over"
USAGE_COLUMNS = f"{_COMMON}, ''::bytea AS output"
"""Without what was printed, which a record of use does not show."""


def execution_from_row(row: Any) -> Execution:
    """An execution from a row with EXECUTION_COLUMNS or USAGE_COLUMNS."""
    state = UsageState(row.state)
    outcome = None
    if state is UsageState.ENDED:
        outcome = Outcome(
            exit_code=row.exit_code,
            output=bytes(row.output).decode(),
            error=row.error,
            result=json.loads(row.result),
            seconds=row.seconds,
        )
    return Execution(
        execution_id=row.execution_id,
        tool_name=row.tool_name,
        username=row.username,
        arguments=json.loads(row.arguments),
        effect=Effect(row.effect),
        task_id=row.task_id,
        step_id=row.step_id,
        attempt=row.attempt,
        state=state,
        outcome=outcome,
        create_time=row.create_time,
        run=row.run,
        begin_time=row.begin_time,
        traceparent=row.traceparent,
        log_refusal=row.log_refusal,
    )
