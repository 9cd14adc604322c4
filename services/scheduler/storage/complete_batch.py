"""Completions of runs that nothing has changed since they started, in one statement that trusts what is remembered of them.

Nearly every task is such a one. The statement checks what it was told (state, attempt, number of the next event) where it deletes
the row, so a run that did change, or whose attempt is over, is simply not among those it gives back, and is handled as any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import asyncpg

from services.common.db.clock import DatabaseClock
from services.scheduler.domain.payload import is_payload
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import State
from services.scheduler.domain.worker import CompletionReport, Report
from services.scheduler.storage.changelog import ChangeLog, event_of, notified, queued
from services.scheduler.storage.event_log import INLINE_BYTES, frame

# Most batches find every run as it is remembered. Then their events go out with the same statement; else the answer names the
# runs that were, and what is to go out follows.
_COMPLETE = f"""
WITH gone AS (
  DELETE FROM tasks t USING (
    SELECT task_id, result, log, get_byte($2, line::int - 1) AS attempt, get_byte($3, line::int - 1) AS number
    FROM unnest($1::uuid[], $4::bytea[], $5::bytea[]) WITH ORDINALITY AS u (task_id, result, log, line)
  ) c
  WHERE t.task_id = c.task_id AND t.task_id = ANY($1) AND t.state = 2 AND t.attempt = c.attempt AND t.next_event_number = c.number
    AND NOT t.has_children AND NOT t.has_steps AND NOT t.has_dependants
  RETURNING t.tenant_id, t.task_id, t.create_time, t.start_time, $6::timestamptz, 3::smallint, t.attempt, c.number + 1,
    t.log_events + 1, 1::real, t.parent_task_id, t.queue, t.kind, t.traceparent, NULL::text, NULL::text, t.spec, t.context,
    t.log || c.log, c.result, t.priority, t.retention_days, t.event_content, t.event_key_id
), kept AS (
  INSERT INTO finished_tasks (tenant_id, task_id, create_time, start_time, finish_time, state, attempt, next_event_number,
    log_events, progress, parent_task_id, queue, kind, traceparent, error_reason, error_message, spec, context, log, result,
    priority, retention_days, event_content, event_key_id)
  SELECT * FROM gone
), found AS (
  SELECT count(*) = $7 AS every FROM gone
), {queued(8, "(SELECT every FROM found)")}
SELECT CASE WHEN every THEN {notified(8)}::text END,
  CASE WHEN NOT every THEN ARRAY(SELECT task_id::text FROM gone) END
FROM found
"""  # noqa: S608 - constants only


async def complete_unchanged(
    connection: asyncpg.Connection, clock: DatabaseClock, log: ChangeLog, reports: Sequence[Report]
) -> set[int]:
    """Completes what can be completed so; gives the places of those reports. What of it is not written yet is in the log."""
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
    # A start may have been told by the database's own clock, behind which this one is by a little.
    now = max([await clock.read(connection), *(run.start_time for *_, run in candidates if run.start_time is not None)])
    events = []
    every = log.beside()
    for _, _, report, run in candidates:
        run.counted = State.RUNNING
        event = event_of(run, run.complete(report.result, now), report.worker_id, now)
        every.add_written(run, event, report.worker_id)
        events.append(event)
    await every.read_keys(connection)
    _, named = await connection.fetchrow(
        _COMPLETE,
        [task_id for task_id, *_ in candidates],
        bytes(report.attempt for _, _, report, _ in candidates),
        bytes(event.number for event in events),
        [report.result for _, _, report, _ in candidates],
        [frame(event.value) for event in events],
        now,
        len(candidates),
        *every.queued(),
    )
    if named is None:
        await every.tell_others(connection)
        log.wake.add(every.wake)
        return {place for _, place, _, _ in candidates}
    done = set(named)
    for (task_id, _, report, run), event in zip(candidates, events, strict=True):
        if task_id in done:
            log.add_written(run, event, report.worker_id)
    return {place for task_id, place, _, _ in candidates if task_id in done}


def _fits(report: CompletionReport, run: Run) -> bool:
    """Whether the report is about this run, and its event has room in the task's row."""
    return (
        run.attempt == report.attempt <= _LARGEST
        and run.next_event_number <= _LARGEST
        and run.state is State.RUNNING
        and report.tenant_id in (None, run.tenant_id)
        # Of the end of such a task more follows than of the end of others.
        and run.blocked_by is None
        and not run.has_dependants
        and not is_payload(report.result)
        and run.log_events == run.next_event_number - 1
        and run.log_bytes + len(report.result) + _EVENT_BYTES <= INLINE_BYTES
    )


# Attempts and numbers are sent as bytes.
_LARGEST = 255
# More than the rest of a completed event can have: ids, tenant, actor, queue and kind at their longest.
_EVENT_BYTES = 1200
