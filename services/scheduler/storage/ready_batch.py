"""Makes SCHEDULED tasks PENDING when their moment has come, and WAITING ones when they have waited long enough."""

from __future__ import annotations

from datetime import datetime, timedelta

import asyncpg

from services.scheduler.domain.events import Signalled
from services.scheduler.domain.task import State
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.journal import Journal, signal_result
from services.scheduler.storage.runs import COLUMNS, runs_of

BATCH = 500
_ACTOR = "scheduler"

# Replicas share the work: what one has locked the others skip.
_DUE = f"""
WITH locked AS MATERIALIZED (
  SELECT {COLUMNS} FROM tasks WHERE state IN (6, 7) AND available_at <= statement_timestamp() AND available_at > $1
  ORDER BY available_at LIMIT {BATCH} FOR NO KEY UPDATE SKIP LOCKED
)
SELECT *, clock_timestamp() AS now FROM locked
"""  # noqa: S608 - constants only
_NEXT = "SELECT min(available_at) - clock_timestamp() FROM tasks WHERE state IN (6, 7) AND available_at > $1"


async def make_ready(connection: asyncpg.Connection, log: ChangeLog, since: datetime) -> tuple[int, datetime, timedelta | None]:
    """Handles at most BATCH tasks that became due after `since`, in the caller's transaction.

    Gives how many, at what time it looked, and how long until the next is due, None when there is none.
    """
    looked: datetime = await connection.fetchval("SELECT statement_timestamp()")
    rows = await connection.fetch(_DUE, since)
    runs, now = runs_of(rows)
    journal = Journal({})
    for run in runs.values():
        if run.state is State.WAITING and run.signal is not None:
            signal = run.signal
            number = log.add(run, Signalled(signal, None, run.prompt or ""), _ACTOR, now)
            journal.add(run, signal, number, run.attempt, signal_result(None))
        log.add(run, run.ready(now), _ACTOR, now)
    await journal.write(connection)
    await log.write(connection)
    if len(rows) == BATCH:
        return BATCH, looked, timedelta()
    return len(rows), looked, await connection.fetchval(_NEXT, since)
