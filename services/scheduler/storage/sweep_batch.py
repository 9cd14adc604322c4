"""Ends what timed out, and gives back what lost its worker."""

from __future__ import annotations

import asyncpg
from prometheus_client import Counter

from services.scheduler.domain.run import WORKER_LOST, Run
from services.scheduler.domain.task import State
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.runs import COLUMNS, cancel_children, runs_of

expired = Counter(
    "guildmesh_leases_expired", "Leases that ended without a heartbeat; their tasks go to other workers or fail.", ["queue"]
)

BATCH = 500

# The index holds every started task that has not ended: as many rows as there are running and retried tasks.
_OVERDUE = f"""
WITH locked AS MATERIALIZED (
  SELECT {COLUMNS} FROM tasks
  WHERE deadline IS NOT NULL
    AND (deadline <= statement_timestamp() OR (state = 2 AND (lease_expires <= statement_timestamp()
      OR attempt_ends <= statement_timestamp() OR quiet_ends <= statement_timestamp())))
  ORDER BY task_id LIMIT {BATCH} FOR NO KEY UPDATE SKIP LOCKED
)
SELECT *, clock_timestamp() AS now FROM locked
"""  # noqa: S608 - constants only
# Those that have not started, of which the index holds only the ones that must by some moment.
_LATE = f"""
WITH locked AS MATERIALIZED (
  SELECT {COLUMNS} FROM tasks WHERE start_by <= statement_timestamp()
  ORDER BY start_by LIMIT {BATCH} FOR NO KEY UPDATE SKIP LOCKED
)
SELECT *, clock_timestamp() AS now FROM locked
"""  # noqa: S608 - constants only
_ACTOR = "scheduler"


async def sweep_runs(connection: asyncpg.Connection, log: ChangeLog) -> int:
    """Handles at most BATCH overdue runs in the caller's transaction; gives how many there were."""
    rows = await connection.fetch(_OVERDUE) or await connection.fetch(_LATE)
    runs, now = runs_of(rows)
    ended: list[Run] = []
    for run in list(runs.values()):
        running, attempt = run.state is State.RUNNING, run.attempt
        change = run.time_out(now) if run.timed_out(now) else run.lose_attempt(now)
        log.add(run, change, _ACTOR, now)
        lost = change.reason == WORKER_LOST
        if lost:
            expired.labels(run.queue).inc()
        if running:
            log.stop(run, attempt, "STALE_ATTEMPT" if lost else change.reason)
        if run.state.ended:
            ended.append(run)
    await cancel_children(connection, log, ended, runs, "The parent task has ended.", _ACTOR)
    await log.write(connection)
    return len(rows)
