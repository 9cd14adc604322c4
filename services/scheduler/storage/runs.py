"""Tasks that have not ended, locked: a task changes only under its row lock, and locks are taken in order of the ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import asyncpg

from services.common.errors import DomainError
from services.scheduler.domain.errors import TaskNotFound
from services.scheduler.domain.event_content import EventContent
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import State
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.tasks import GET_TASK, task_of

COLUMNS = """tenant_id, task_id, shard, state, queue, kind, priority, attempt, max_attempts, timeout_ms, next_event_number,
  has_children, parent_task_id, traceparent, available_at, has_steps, octet_length(log), log_events, worker_id, lease_expires,
  start_time, deadline, progress, start_by, end_by, attempt_timeout_ms, heartbeat_timeout_ms, attempt_ends, quiet_ends, retry,
  waits, wait_signal, wait_prompt, time_left_ms, position, blocked_by, has_dependants, start_timeout_ms,
  queue_tenant, output, create_time, event_content, event_key_id"""

# The clock is read above the lock, so that the times of a task's events never go back.
_LOCK = f"""
WITH locked AS MATERIALIZED (
  SELECT {COLUMNS} FROM tasks WHERE task_id = ANY($1::uuid[]) ORDER BY task_id FOR NO KEY UPDATE
)
SELECT *, clock_timestamp() AS now FROM locked
"""  # noqa: S608 - constants only
# A worker of the mesh names a task without its tenant, and this key starts with the tenant: PostgreSQL skips through the tenants.
# Only what is told twice or too late comes here.
_FINISHED = """
SELECT tenant_id, task_id, state, attempt, error_reason FROM finished_tasks WHERE task_id = ANY($1::uuid[])
"""


def run_of(row: asyncpg.Record) -> Run:
    """The run in a row that has COLUMNS first."""
    parent, state = row[12], _STATES[row[3]]
    run = Run(
        row[0], str(row[1]), row[2], state, row[4], row[5], row[6], row[7], row[8], row[9], row[10], row[11],
        None if parent is None else str(parent), row[13], row[14], row[15], row[16], row[17], row[18], row[19], row[20],
        row[21], None, row[22], None, None, None, row[23], row[24], row[25], row[26], row[27], row[28], row[29], row[30],
        row[31], row[32], row[33], row[34], state, row[35], row[36], row[37], row[38],
        row[39], row[40],
    )  # fmt: skip
    # Most tasks have neither.
    if (content := row[41]) is not None:
        run.event_content = EventContent(content)
        run.event_key_id = None if row[42] is None else str(row[42])
    return run


_STATES = {int(state): state for state in State}


async def lock_runs(connection: asyncpg.Connection, task_ids: Iterable[str]) -> tuple[dict[str, Run], datetime]:
    """Locks these tasks; gives them by their ids, and a time after the last lock. Ended and unknown ones are left out."""
    return runs_of(await connection.fetch(_LOCK, sorted(set(task_ids))))


def runs_of(rows: Sequence[asyncpg.Record]) -> tuple[dict[str, Run], datetime]:
    """The runs in rows that have COLUMNS first and the time they were locked as `now`, and the latest of the times.

    One time for all keeps the times of each task's events from going back, and is encoded once.
    """
    runs = {run.task_id: run for row in rows for run in (run_of(row),)}
    return runs, max((row["now"] for row in rows), default=datetime.min)


async def lock_run(
    connection: asyncpg.Connection, tenant_id: str, task_id: str, ended: Callable[[str, str], DomainError]
) -> tuple[Run, datetime]:
    """Locks one task of a tenant; gives it, and a time after the lock.

    Raises:
        TaskNotFound: the tenant has no such task.
        DomainError: what `ended` makes of the id and the status of a task that has ended.
    """
    runs, now = await lock_runs(connection, [task_id])
    run = runs.get(task_id)
    if run is not None and run.tenant_id == tenant_id:
        return run, now
    # A task that ends meanwhile is in one of the two tables at any moment.
    row = await connection.fetchrow(GET_TASK, tenant_id, task_id)
    raise TaskNotFound(task_id) if row is None else ended(task_id, task_of(row).state.status)


class Finished:
    """How a task ended, as far as a worker that tells of it needs to know."""

    def __init__(self, row: asyncpg.Record) -> None:
        self.tenant_id: str = row["tenant_id"]
        self.state = State(row["state"])
        self.attempt: int = row["attempt"]
        self.error_reason: str | None = row["error_reason"]


async def read_finished(connection: asyncpg.Connection, task_ids: Iterable[str]) -> dict[str, Finished]:
    """The tasks of these that have ended."""
    rows = await connection.fetch(_FINISHED, sorted(set(task_ids)))
    return {str(row["task_id"]): Finished(row) for row in rows}


def cancel_run(log: ChangeLog, run: Run, cause: str, actor: str, now: datetime) -> None:
    """Cancels a run that has not ended, and has its worker told; what follows from that is left to `storage.cascade`."""
    running, attempt = run.state is State.RUNNING, run.attempt
    log.add(run, run.cancel(cause, now), actor, now)
    if running:
        log.stop(run, attempt, "CANCELLED")
