"""Starts many tasks in one transaction: by queue priority, task priority, then first in, first out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg

from services.scheduler.domain.ports import Demand
from services.scheduler.domain.task import Lease, Step, Task
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.runs import COLUMNS, run_of

# For each kind the index gives the tasks in order; the kinds are merged. Rows that another replica is leasing are skipped.
_TAKE = f"""
WITH taken AS MATERIALIZED (
  SELECT p.* FROM unnest($1::text[]) AS k (kind) CROSS JOIN LATERAL (
    SELECT {COLUMNS}, spec, context, create_time, queue_priority, position FROM tasks r
    WHERE r.state = 1 AND r.kind = k.kind AND r.available_at <= statement_timestamp()
      AND (r.deadline IS NULL OR r.deadline > statement_timestamp()) {{filters}}
    ORDER BY r.queue_priority DESC, r.priority DESC, r.position
    LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
  ) p
  ORDER BY p.queue_priority DESC, p.priority DESC, p.position
  LIMIT $2
)
SELECT p.*, clock_timestamp() AS now FROM taken p
"""  # noqa: S608 - constants only
_STEPS = """
SELECT task_id, step_id, attempt, result FROM task_steps
WHERE (tenant_id, task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[])) ORDER BY task_id, number
"""


async def lease_tasks(
    connection: asyncpg.Connection, log: ChangeLog, demand: Demand, workers: Sequence[str], lease: timedelta
) -> list[Lease]:
    """Starts at most one task for each entry of `workers`, in the caller's transaction."""
    filters, arguments = "", [sorted(demand.kinds), len(workers)]
    if demand.tenant_id is not None:
        arguments.append(demand.tenant_id)
        filters += f" AND r.tenant_id = ${len(arguments)}"
    if demand.queues:
        arguments.append(sorted(demand.queues))
        filters += f" AND r.queue = ANY(${len(arguments)}::text[])"
    rows = await connection.fetch(_TAKE.format(filters=filters), *arguments)
    if not rows:
        return []
    steps = await _steps(connection, rows)
    leases = []
    for row, worker_id in zip(rows, workers, strict=False):
        leases.append(_start(row, worker_id, lease, log, steps))
    await log.write(connection)
    return leases


def _start(row: asyncpg.Record, worker_id: str, lease: timedelta, log: ChangeLog, steps: dict[str, list[Step]]) -> Lease:
    run, now = run_of(row), row["now"]
    log.add(run, run.start(worker_id, now, lease), worker_id, now)
    task = Task(
        run.task_id, run.tenant_id, row["spec"], row["create_time"], row["context"], run.traceparent, run.state, run.attempt,
        run.progress, run.next_event_number - 1, run.start_time,
    )  # fmt: skip
    deadline: datetime = run.deadline or now
    return Lease(task, deadline - now, tuple(steps.get(run.task_id, ())))


async def _steps(connection: asyncpg.Connection, rows: Sequence[asyncpg.Record]) -> dict[str, list[Step]]:
    again = [row for row in rows if row["has_steps"]]
    if not again:
        return {}
    found: dict[str, list[Step]] = {}
    for row in await connection.fetch(_STEPS, [r["tenant_id"] for r in again], [r["task_id"] for r in again]):
        found.setdefault(str(row["task_id"]), []).append(Step(row["step_id"], row["attempt"], row["result"]))
    return found
