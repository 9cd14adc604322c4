"""Completions of runs that nothing has changed since they started, in one statement that trusts what is remembered of them.

Nearly every task is such a one. The statement checks what it was told (state, attempt, number of the next event) where it deletes
the row, so a run that did change, or whose attempt is over, is simply not among those it gives back, and is handled as any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import asyncpg

from services.scheduler.domain.run import Run
from services.scheduler.domain.task import State
from services.scheduler.domain.worker import CompletionReport, Report
from services.scheduler.storage.changelog import ChangeLog, event_of
from services.scheduler.storage.event_log import INLINE_BYTES

_COMPLETE = """
WITH gone AS (
  DELETE FROM tasks t USING unnest($1::uuid[], $2::int[], $3::int[], $4::bytea[], $5::bytea[])
    AS c (task_id, attempt, number, result, log)
  WHERE t.task_id = c.task_id AND t.task_id = ANY($1) AND t.state = 2 AND t.attempt = c.attempt AND t.next_event_number = c.number
    AND NOT t.has_children AND NOT t.has_steps
  RETURNING t.tenant_id, t.task_id, t.create_time, t.start_time, $6::timestamptz, 3::smallint, t.attempt, c.number + 1,
    t.log_events + 1, 1::real, t.parent_task_id, t.queue, t.kind, t.traceparent, NULL::text, NULL::text, t.spec, t.context,
    t.log || c.log, c.result, t.priority, t.retention_days
), kept AS (
  INSERT INTO finished_tasks (tenant_id, task_id, create_time, start_time, finish_time, state, attempt, next_event_number,
    log_events, progress, parent_task_id, queue, kind, traceparent, error_reason, error_message, spec, context, log, result,
    priority, retention_days)
  SELECT * FROM gone
)
SELECT task_id::text FROM gone
"""


async def complete_unchanged(connection: asyncpg.Connection, log: ChangeLog, reports: Sequence[Report]) -> set[int]:
    """Completes what can be completed so; gives the places of those reports."""
    told = Counter(report.task_id for report in reports)
    # In the order of the ids, in which all locks are taken.
    candidates = sorted(
        (report.task_id, place, report, report.run)
        for place, report in enumerate(reports)
        if isinstance(report, CompletionReport)
        and report.run is not None
        and told[report.task_id] == 1
        and _fits(report, report.run)
    )
    if not candidates:
        return set()
    now: datetime = await connection.fetchval("SELECT clock_timestamp()")
    runs: dict[str, tuple[int, Run]] = {}
    events = []
    for task_id, place, report, run in candidates:
        runs[task_id] = (place, run)
        events.append(event_of(run, run.complete(report.result, now), report.worker_id, now))
    rows = await connection.fetch(
        _COMPLETE,
        [task_id for task_id, *_ in candidates],
        [report.attempt for _, _, report, _ in candidates],
        [event.number for event in events],
        [report.result for _, _, report, _ in candidates],
        [event.framed for event in events],
        now,
    )
    done = {row[0] for row in rows}
    for (task_id, _, _, run), event in zip(candidates, events, strict=True):
        if task_id in done:
            run.counted = State.RUNNING
            log.add_written(run, event)
    return {runs[task_id][0] for task_id in done}


def _fits(report: CompletionReport, run: Run) -> bool:
    """Whether the report is about this run, and its event has room in the task's row."""
    return (
        run.attempt == report.attempt
        and run.state is State.RUNNING
        and report.tenant_id in (None, run.tenant_id)
        and run.log_events == run.next_event_number - 1
        and run.log_bytes + len(report.result) + _EVENT_BYTES <= INLINE_BYTES
    )


# More than the rest of a completed event can have: ids, tenant, actor, queue and kind at their longest.
_EVENT_BYTES = 1200
