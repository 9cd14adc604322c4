"""What every prototype does alike: start tasks that were decided on, complete them, take back what nobody works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from bench.dispatch.connection import LEASE_SECONDS

BY_KEY = "SET enable_seqscan = off; SET enable_nestloop = off; SET enable_mergejoin = off"
"""How statements that name their rows are planned, as in services.common.db.driver."""
COLUMNS = (
    "t.task_id, t.tenant_id, t.queue, t.concurrency_key, t.spec, t.attempt, t.seconds, t.priority, t.position,"
    " t.next_event_number"
)
# The time is taken after the locks, so a start never seems earlier than the end that made room for it.
_START = f"""
UPDATE tasks t SET state = 2, attempt = t.attempt + 1, next_event_number = t.next_event_number + 1, worker_id = $2,
  lease_expires = clock_timestamp() + interval '{LEASE_SECONDS} s', start_time = clock_timestamp(), log = t.log || c.log,
  deadline = COALESCE(t.deadline, clock_timestamp() + t.timeout_ms * interval '1 ms'), log_events = t.log_events + 1
FROM unnest($1::uuid[], $3::bytea[]) AS c (task_id, log)
WHERE t.task_id = c.task_id AND t.task_id = ANY($1) AND t.state = 1
RETURNING t.task_id::text, t.attempt
"""
_GONE = """
  t.tenant_id, t.task_id, t.create_time, t.start_time, clock_timestamp(), 3::smallint, t.attempt, t.next_event_number + 1,
    t.log_events + 1, 1::real, t.parent_task_id, t.queue, t.kind, t.traceparent, t.spec, t.context, {log}, {result},
    t.concurrency_key
"""
_KEPT = """
(tenant_id, task_id, create_time, start_time, finish_time, state, attempt, next_event_number, log_events, progress,
  parent_task_id, queue, kind, traceparent, spec, context, log, result, concurrency_key) SELECT * FROM gone
"""
_COMPLETE = f"""
WITH gone AS (
  DELETE FROM tasks t USING unnest($1::uuid[], $2::int[], $3::bytea[]) AS c (task_id, attempt, log)
  WHERE t.task_id = c.task_id AND t.task_id = ANY($1) AND t.state = 2 AND t.attempt = c.attempt
  RETURNING {_GONE.format(log="t.log || c.log", result="c.log")}
), kept AS (INSERT INTO finished_tasks {_KEPT})
SELECT task_id::text FROM gone
"""
_EXPIRE = f"""
WITH found AS (
  SELECT task_id FROM tasks WHERE state = 2 AND lease_expires < clock_timestamp() LIMIT 500 FOR NO KEY UPDATE SKIP LOCKED
), gone AS (
  UPDATE tasks t SET state = 1 FROM found WHERE t.task_id = found.task_id
  RETURNING {_GONE.format(log="t.log", result="NULL::bytea")}
), kept AS (INSERT INTO dispatch_expired {_KEPT})
SELECT task_id::text FROM gone
"""
_EVENT = b"e" * 150


@dataclass(slots=True)
class Lease:
    """A started task for a worker."""

    task_id: str
    attempt: int
    queue: str
    tenant: str
    seconds: float
    spec: bytes


async def start(connection: asyncpg.Connection, rows: Sequence[asyncpg.Record], worker: str) -> list[Lease]:
    """Starts the tasks that still wait, in the caller's transaction."""
    # The real thing puts an event together for each; so much of Python's time is alike in all prototypes and left out.
    started = await connection.fetch(_START, [row["task_id"] for row in rows], worker, [_EVENT] * len(rows))
    attempts = {row[0]: row[1] for row in started}
    return [
        Lease(task_id, attempts[task_id], row["queue"], row["tenant_id"], row["seconds"], row["spec"])
        for row in rows
        if (task_id := str(row["task_id"])) in attempts
    ]


async def complete(connection: asyncpg.Connection, leases: Sequence[Lease]) -> set[str]:
    """Completes the runs; gives those whose attempt was still the current one."""
    ordered = sorted(leases, key=lambda lease: lease.task_id)
    ids, attempts = [lease.task_id for lease in ordered], [lease.attempt for lease in ordered]
    return {row[0] for row in await connection.fetch(_COMPLETE, ids, attempts, [_EVENT] * len(ids))}


async def expire(connection: asyncpg.Connection) -> int:
    """Lets tasks wait again whose lease has ended; gives how many."""
    return len(await connection.fetch(_EXPIRE))
