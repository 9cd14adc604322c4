"""Ends what timed out, and gives back what lost its worker."""

from __future__ import annotations

from datetime import datetime

import asyncpg
from prometheus_client import Counter

from services.scheduler.domain.run import WORKER_LOST, Run
from services.scheduler.domain.task import State
from services.scheduler.storage.cascade import cascade, settle
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.runs import COLUMNS, runs_of
from services.scheduler.storage.tell_parents import tell_before_the_end

expired = Counter(
    "guildmesh_leases_expired", "Leases that ended without a heartbeat; their tasks go to other workers or fail.", ["queue"]
)

BATCH = 500

# A heartbeat moves the end of a lease and not this moment, so that it changes no index: what is found too early is put off.
_DUE = f"""
WITH locked AS MATERIALIZED (
  SELECT {COLUMNS} FROM tasks WHERE check_at <= statement_timestamp() AND check_at > $1
  ORDER BY check_at LIMIT {BATCH} FOR NO KEY UPDATE SKIP LOCKED
)
SELECT *, clock_timestamp() AS now FROM locked
"""  # noqa: S608 - constants only
_LATER = """
UPDATE tasks t SET check_at = c.check_at FROM unnest($1::uuid[], $2::timestamptz[]) AS c (task_id, check_at)
WHERE t.task_id = c.task_id AND t.task_id = ANY($1)
"""
_ACTOR = "scheduler"


async def sweep_runs(connection: asyncpg.Connection, log: ChangeLog, since: datetime) -> tuple[int, int, datetime]:
    """Handles at most BATCH runs with a limit that ended after `since`, in the caller's transaction.

    With none, it goes on with some of what was too much for the transaction that ended a task. Gives how many runs it looked at,
    with how many tasks it went on, and at what time it looked.
    """
    looked: datetime = await connection.fetchval("SELECT statement_timestamp()")
    rows = await connection.fetch(_DUE, since)
    runs, now = runs_of(rows)
    await tell_before_the_end(connection, log, runs.values(), now)
    ended: list[Run] = []
    early: list[Run] = []
    for run in list(runs.values()):
        running, attempt = run.state is State.RUNNING, run.attempt
        limit = run.check_at
        if limit is None or limit > now:
            early.append(run)
            continue
        change = run.time_out(now) if run.timed_out(now) else run.lose_attempt(now)
        log.add(run, change, _ACTOR, now)
        lost = change.reason == WORKER_LOST
        if lost:
            expired.labels(run.queue).inc()
        if running:
            log.stop(run, attempt, "STALE_ATTEMPT" if lost else change.reason)
        if run.state.ended:
            ended.append(run)
    if early:
        await connection.execute(_LATER, [run.task_id for run in early], [run.check_at for run in early])
    await cascade(connection, log, ended, runs, "The parent task has ended.", _ACTOR, now)
    settled = 0 if rows else await settle(connection, log, _ACTOR)
    await log.write(connection)
    return len(rows), settled, looked
