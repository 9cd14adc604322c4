"""Starts many tasks in one transaction: by queue priority, task priority, then first in, first out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg

from services.common.telemetry.batch_histogram import BatchHistogram
from services.scheduler.domain.dependency import Outcome
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import Lease, Step
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.outcomes import read_outcomes
from services.scheduler.storage.runs import COLUMNS, run_of

# For each kind the index gives the tasks in order; the kinds are merged. Rows that another replica is leasing are skipped.
_TAKE = f"""
WITH taken AS MATERIALIZED (
  SELECT p.* FROM unnest($1::text[]) AS k (kind) CROSS JOIN LATERAL (
    SELECT {COLUMNS}, spec, context, queue_priority FROM tasks r
    WHERE r.state = 1 AND r.queue_tenant IS NULL AND r.kind = k.kind AND r.position > $3
      AND r.available_at <= statement_timestamp()
      AND (r.deadline IS NULL OR r.deadline > statement_timestamp())
      AND (r.start_by IS NULL OR r.start_by > statement_timestamp()) {{filters}}
    ORDER BY r.queue_priority DESC, r.priority DESC, r.position
    LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
  ) p
  ORDER BY p.queue_priority DESC, p.priority DESC, p.position
  LIMIT $2
)
SELECT p.*, clock_timestamp() AS now FROM taken p
"""  # noqa: S608 - constants only
# What Run.start says, with little to send: the rows are locked, so they are as they were read.
_START = """
UPDATE tasks t SET
  state = 2, attempt = t.attempt + 1, next_event_number = t.next_event_number + 1, worker_id = c.worker_id,
  lease_expires = $4::timestamptz + $5::interval, start_time = COALESCE(t.start_time, $4),
  deadline = CASE WHEN t.time_left_ms IS NULL THEN COALESCE(t.deadline, LEAST($4 + t.timeout_ms * interval '1 ms', t.end_by))
    ELSE LEAST($4 + t.time_left_ms * interval '1 ms', t.end_by) END, time_left_ms = NULL, start_by = NULL,
  attempt_ends = $4 + t.attempt_timeout_ms * interval '1 ms', quiet_ends = $4 + t.heartbeat_timeout_ms * interval '1 ms',
  check_at = LEAST($4::timestamptz + $5::interval, t.deadline, $4 + COALESCE(t.time_left_ms, t.timeout_ms) * interval '1 ms',
    t.end_by, $4 + t.attempt_timeout_ms * interval '1 ms', $4 + t.heartbeat_timeout_ms * interval '1 ms'),
  log = t.log || c.log, log_events = t.log_events + CASE WHEN c.log = '' THEN 0 ELSE 1 END
FROM unnest($1::uuid[], $2::text[], $3::bytea[]) AS c (task_id, worker_id, log)
WHERE t.task_id = c.task_id AND t.task_id = ANY($1)
"""
# Looks at all that wait, and at more while vacuum may not take what has waited.
_FIRST = """
SELECT min(position), COALESCE(pg_sequence_last_value('tasks_position_seq'), 0) FROM tasks
WHERE state = 1 AND queue_tenant IS NULL
"""
wait_seconds = BatchHistogram(
    "guildmesh_task_wait_seconds",
    "Time from when a task may start to its start.",
    "queue",
    (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)
_STEPS = """
SELECT task_id, step_id, attempt, result FROM task_steps
WHERE (tenant_id, task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[])) AND tenant_id = ANY($1) AND task_id = ANY($2)
ORDER BY task_id, number
"""


async def lease_tasks(
    connection: asyncpg.Connection, log: ChangeLog, demand: Demand, workers: Sequence[str], lease: timedelta, above: int
) -> list[Lease]:
    """Starts at most one task for each entry of `workers`, in the caller's transaction; none waits at `above` or below it."""
    filters, arguments = "", [sorted(demand.kinds), len(workers), above]
    if demand.tenant_id is not None:
        arguments.append(demand.tenant_id)
        filters += f" AND r.tenant_id = ${len(arguments)}"
    if demand.queues:
        arguments.append(sorted(demand.queues))
        filters += f" AND r.queue = ANY(${len(arguments)}::text[])"
    rows = await connection.fetch(_TAKE.format(filters=filters), *arguments)
    if not rows:
        return []
    leases = await start_rows(connection, log, rows, workers, lease)
    leases[0].queue_priority = rows[0]["queue_priority"]
    return leases


async def start_rows(
    connection: asyncpg.Connection, log: ChangeLog, rows: Sequence[asyncpg.Record], workers: Sequence[str], lease: timedelta
) -> list[Lease]:
    """Starts the tasks of locked rows, one for each entry of `workers`, as far as there are rows."""
    steps = await steps_of(connection, rows)
    outcomes = await read_outcomes(connection, rows, steps)
    # One time for all, after the last lock.
    now = max(row["now"] for row in rows)
    leases = []
    started = []
    for row, worker_id in zip(rows, workers, strict=False):
        run = run_of(row)
        log.add(run, run.start(worker_id, now, lease), worker_id, now)
        started.append(run)
        leases.append(lease_of(run, row, now, steps, outcomes))
    _observe_waits(started, now)
    await _write(connection, started, log, now, lease)
    await log.write(connection, written=True)
    return leases


async def first_waiting(connection: asyncpg.Connection) -> tuple[int | None, int]:
    """The lowest position that waits for a worker, None when none does, and the highest that was given so far."""
    first, given = await connection.fetchrow(_FIRST)
    return first, given


async def _write(connection: asyncpg.Connection, runs: Sequence[Run], log: ChangeLog, now: datetime, lease: timedelta) -> None:
    await connection.execute(
        _START,
        [run.task_id for run in runs],
        [run.worker_id for run in runs],
        [log.log_of(run.task_id) for run in runs],
        now,
        lease,
    )


def _observe_waits(runs: Sequence[Run], now: datetime) -> None:
    waits: dict[str, list[float]] = {}
    for run in runs:
        waits.setdefault(run.queue, []).append((now - run.available_at).total_seconds())
    for queue, seconds in waits.items():
        wait_seconds.observe(queue, seconds)


def lease_of(
    run: Run, row: asyncpg.Record, now: datetime, steps: dict[str, list[Step]], outcomes: dict[str, list[Outcome]]
) -> Lease:
    """The lease of a started run, whose row has spec, context and create_time."""
    task_id = run.task_id
    given = (tuple(steps.get(task_id, ())), tuple(outcomes.get(task_id, ())))
    return Lease(run, row["spec"], row["context"], row["create_time"], run.remaining(now), *given)


async def steps_of(connection: asyncpg.Connection, rows: Sequence[asyncpg.Record]) -> dict[str, list[Step]]:
    """The journals of tasks that have one."""
    again = [row for row in rows if row["has_steps"]]
    if not again:
        return {}
    found: dict[str, list[Step]] = {}
    for row in await connection.fetch(_STEPS, [r["tenant_id"] for r in again], [r["task_id"] for r in again]):
        found.setdefault(str(row["task_id"]), []).append(Step(row["step_id"], row["attempt"], row["result"]))
    return found
