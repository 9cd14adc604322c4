"""Starts tasks that were decided on, in a transaction behind the fence by which they were: the epoch and the limits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache

import asyncpg

from services.scheduler.domain.decision import Start, ToStart
from services.scheduler.domain.limits import Limits
from services.scheduler.domain.task import Lease
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.lease_batch import lease_of, start_rows, steps_of
from services.scheduler.storage.outcomes import read_outcomes
from services.scheduler.storage.runs import COLUMNS, run_of

LIMITS = "priority, max_running, max_running_per_key, rate_per_second, rate_burst, paused, tenant_weights"
# What somebody else has locked may be on its way out: it is looked at again.
_TAKE = f"""
WITH taken AS MATERIALIZED (
  SELECT {COLUMNS}, spec, context FROM tasks r
  WHERE task_id = ANY($1::uuid[]) AND state = 1 AND queue_tenant IS NOT NULL
    AND (deadline IS NULL OR deadline > statement_timestamp()) AND (start_by IS NULL OR start_by > statement_timestamp())
  ORDER BY task_id FOR NO KEY UPDATE SKIP LOCKED
)
SELECT {COLUMNS.replace("octet_length(log)", "octet_length")}, CASE WHEN here THEN spec END AS spec,
  CASE WHEN here THEN context END AS context, clock_timestamp() AS now
FROM taken JOIN unnest($1::uuid[], $2::bool[]) AS c (id, here) ON c.id = task_id
"""  # noqa: S608 - constants only
_STARTED = f"""
SELECT {COLUMNS}, spec, context, clock_timestamp() AS now FROM tasks
WHERE task_id = ANY($1::uuid[]) AND state = 2
"""  # noqa: S608 - constants only


def limits_of(row: asyncpg.Record) -> Limits:
    """The limits in a row that has tenant, queue and LIMITS first."""
    return Limits(row[2], row[3], row[4], row[5], row[6], row[7], _weights_of(row[8]))


@lru_cache(1000)
def _weights_of(text: str) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((tenant, float(weight)) for tenant, weight in json.loads(text).items()))


async def start_decided(
    connection: asyncpg.Connection,
    log: ChangeLog,
    starts: Sequence[ToStart],
    lease: timedelta,
) -> list[Lease]:
    """Starts those that still wait, in the caller's transaction, which is fenced."""
    rows = await connection.fetch(_TAKE, [start.task_id for start in starts], [start.here for start in starts])
    if not rows:
        return []
    workers = {start.task_id: start.worker_id for start in starts}
    return await start_rows(connection, log, rows, [workers[str(row["task_id"])] for row in rows], lease)


async def read_started(connection: asyncpg.Connection, starts: Sequence[Start]) -> list[Lease]:
    """The tasks that were started and still are, each with its attempt."""
    attempts = {start.task_id: start.attempt for start in starts}
    rows = [row for row in await connection.fetch(_STARTED, list(attempts)) if row["attempt"] == attempts[str(row["task_id"])]]
    steps = await steps_of(connection, rows)
    outcomes = await read_outcomes(connection, rows, steps)
    return [lease_of(run_of(row), row, row["now"], steps, outcomes) for row in rows]
