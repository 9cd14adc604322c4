"""Rows of task_runs, locked: every change of a task happens under its row lock, and locks are taken in the order of the ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import asyncpg

from services.scheduler.domain.run import Run
from services.scheduler.domain.task import State
from services.scheduler.storage.changelog import ChangeLog

COLUMNS = """tenant_id, task_id, shard, state, queue, kind, priority, attempt, max_attempts, timeout_ms, next_event_number,
  has_children, parent_task_id, traceparent, available_at, worker_id, lease_expires, start_time, deadline, finish_time,
  progress, result, error_reason, error_message"""

# The clock is read above the lock, so that the times of a task's events never go back.
_LOCK = f"""
WITH locked AS MATERIALIZED (
  SELECT {COLUMNS} FROM task_runs WHERE task_id = ANY($1::uuid[]) ORDER BY task_id FOR NO KEY UPDATE
)
SELECT *, clock_timestamp() AS now FROM locked
"""  # noqa: S608 - constants only
_LOCK_CHILDREN = f"""
WITH locked AS MATERIALIZED (
  SELECT {COLUMNS} FROM task_runs
  WHERE (tenant_id, parent_task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[])) AND state IN (1, 2)
  ORDER BY task_id FOR NO KEY UPDATE
)
SELECT *, clock_timestamp() AS now FROM locked
"""  # noqa: S608 - constants only


def run_of(row: asyncpg.Record) -> Run:
    """The run in a row that has COLUMNS first."""
    return Run(
        tenant_id=row[0],
        task_id=str(row[1]),
        shard=row[2],
        state=State(row[3]),
        queue=row[4],
        kind=row[5],
        priority=row[6],
        attempt=row[7],
        max_attempts=row[8],
        timeout_ms=row[9],
        next_event_number=row[10],
        has_children=row[11],
        parent_task_id=None if row[12] is None else str(row[12]),
        traceparent=row[13],
        available_at=row[14],
        worker_id=row[15],
        lease_expires=row[16],
        start_time=row[17],
        deadline=row[18],
        finish_time=row[19],
        progress=row[20],
        result=row[21],
        error_reason=row[22],
        error_message=row[23],
    )


async def lock_runs(connection: asyncpg.Connection, task_ids: Iterable[str]) -> dict[str, tuple[Run, datetime]]:
    """Locks the runs of these tasks; gives each with the time it was locked. Unknown tasks are left out."""
    rows = await connection.fetch(_LOCK, sorted(set(task_ids)))
    return {run.task_id: (run, row["now"]) for row in rows for run in (run_of(row),)}


async def cancel_children(
    connection: asyncpg.Connection,
    log: ChangeLog,
    ended: Sequence[Run],
    known: dict[str, tuple[Run, datetime]],
    cause: str,
    actor: str,
) -> None:
    """Cancels whatever is left below `ended` runs, level by level, in the same transaction.

    A subtask is created under its parent's row lock, so once the parent's row is locked and ended no child can be missed.
    """
    parents = [run for run in ended if run.has_children]
    while parents:
        rows = await connection.fetch(_LOCK_CHILDREN, [run.tenant_id for run in parents], [run.task_id for run in parents])
        parents = []
        for row in rows:
            run = run_of(row)
            # A run that this transaction has changed already is newer in memory than in its row.
            run, now = known.setdefault(run.task_id, (run, row["now"]))
            if run.state.ended:
                continue
            running, attempt = run.state is State.RUNNING, run.attempt
            log.add(run, run.cancel(cause, now), actor, now)
            if running:
                log.stop(run, attempt, "CANCELLED")
            if run.has_children:
                parents.append(run)
