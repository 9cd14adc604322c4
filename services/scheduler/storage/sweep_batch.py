"""Ends what timed out, and gives back what lost its worker."""

from __future__ import annotations

import asyncpg
from prometheus_client import Counter

from services.scheduler.domain.run import Run
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
    AND (deadline <= statement_timestamp() OR (state = 2 AND lease_expires <= statement_timestamp()))
  ORDER BY task_id LIMIT {BATCH} FOR NO KEY UPDATE SKIP LOCKED
)
SELECT *, clock_timestamp() AS now FROM locked
"""  # noqa: S608 - constants only
_ACTOR = "scheduler"


async def sweep_runs(connection: asyncpg.Connection, log: ChangeLog) -> int:
    """Handles at most BATCH overdue runs in the caller's transaction; gives how many there were."""
    rows = await connection.fetch(_OVERDUE)
    runs, now = runs_of(rows)
    ended: list[Run] = []
    for run in list(runs.values()):
        running, attempt = run.state is State.RUNNING, run.attempt
        timed_out = run.timed_out(now)
        change = (
            run.time_out(now)
            if timed_out
            else run.fail_attempt("WORKER_LOST", "The worker's lease ended without a heartbeat.", now, back_off=False)
        )
        log.add(run, change, _ACTOR, now)
        if running and not timed_out:
            expired.labels(run.queue).inc()
        if running:
            log.stop(run, attempt, "TIMEOUT" if timed_out else "STALE_ATTEMPT")
        if run.state.ended:
            ended.append(run)
    await cancel_children(connection, log, ended, runs, "The parent task has ended.", _ACTOR)
    await log.write(connection)
    return len(rows)
