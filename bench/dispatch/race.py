"""Replicas race: who holds the lock of a queue counts what runs in it and starts what may.

The lock is held from before the counting statement takes its snapshot until the commit, so no two replicas can find the same
room. Completions need no lock: they only make room. Nothing is counted in rows of its own, which would be two more updates a task
for each kind of limit.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import asyncpg

from bench.dispatch.loads import Load
from bench.dispatch.ready import FORGET_SECONDS
from bench.dispatch.statements import COLUMNS, Lease, start

PLANNING = "SET enable_seqscan = off; SET enable_mergejoin = off"
_TRY = "SELECT queue FROM unnest($1::text[]) q (queue) WHERE pg_try_advisory_xact_lock(7, hashtext(queue))"
_LOCK = "SELECT pg_advisory_xact_lock(7, hashtext($1))"
# As services/scheduler/storage/lease_batch.py does it.
_TODAY = f"""
SELECT {COLUMNS} FROM tasks t
WHERE t.state = 1 AND t.kind = 'bench' AND t.available_at <= statement_timestamp()
  AND (t.deadline IS NULL OR t.deadline > statement_timestamp())
ORDER BY t.queue_priority DESC, t.priority DESC, t.position
LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
"""
_GROWTH = f"exp(extract(epoch FROM clock_timestamp() - $3::timestamptz)::float8 / {FORGET_SECONDS})"
_PICK = f"""
WITH moment AS MATERIALIZED (SELECT clock_timestamp() AS now, {_GROWTH} AS growth),
busy AS MATERIALIZED (
  SELECT queue, tenant_id, concurrency_key, count(*)::int AS running, sum(extract(epoch FROM now - start_time)::float8) AS seconds
  FROM tasks, moment WHERE state = 2 AND queue = ANY($1) GROUP BY 1, 2, 3
), open_queues AS MATERIALIZED (
  SELECT q.queue, q.max_running, q.max_per_key, COALESCE(b.running, 0) AS running
  FROM dispatch_queues q LEFT JOIN (SELECT queue, sum(running)::int AS running FROM busy GROUP BY 1) b USING (queue)
  WHERE q.queue = ANY($1) AND (q.max_running IS NULL OR COALESCE(b.running, 0) < q.max_running)
), busy_keys AS MATERIALIZED (
  SELECT b.queue, b.concurrency_key, sum(b.running)::int AS running, q.max_per_key
  FROM busy b JOIN open_queues q USING (queue) WHERE b.concurrency_key IS NOT NULL GROUP BY 1, 2, 4
), full_keys AS MATERIALIZED (
  SELECT q.queue, COALESCE(array_agg(k.concurrency_key) FILTER (WHERE k.running >= q.max_per_key), '{{}}') AS full_keys
  FROM open_queues q LEFT JOIN busy_keys k USING (queue) GROUP BY 1
), chosen AS MATERIALIZED (
  SELECT u.queue, u.tenant_id, q.full_keys, u.estimate * growth / u.weight AS step,
    (u.used + greatest(COALESCE(b.seconds, 0), COALESCE(b.running, 0) * u.estimate) * growth) / u.weight AS used
  FROM moment, dispatch_usage u JOIN full_keys q USING (queue)
    LEFT JOIN (SELECT queue, tenant_id, sum(running) AS running, sum(seconds) AS seconds FROM busy GROUP BY 1, 2) b
      USING (queue, tenant_id)
  WHERE u.active
  ORDER BY used LIMIT 2 * $2 + 40
), most AS MATERIALIZED (
  SELECT greatest(2, 4 * $2 / greatest(1, count(*))) AS most FROM chosen
), candidates AS MATERIALIZED (
  SELECT p.*, c.used + c.step * row_number() OVER (PARTITION BY p.queue, p.tenant_id ORDER BY p.priority DESC, p.position) AS turn
  FROM chosen c CROSS JOIN LATERAL (
    SELECT {COLUMNS} FROM tasks t
    WHERE t.state = 1 AND t.queue = c.queue AND t.tenant_id = c.tenant_id AND t.available_at <= statement_timestamp()
      AND (t.deadline IS NULL OR t.deadline > statement_timestamp())
      AND (t.concurrency_key IS NULL OR t.concurrency_key <> ALL (c.full_keys))
    ORDER BY t.priority DESC, t.position
    LIMIT (SELECT most FROM most)
  ) p
), by_key AS (
  SELECT c.*, row_number() OVER (PARTITION BY c.queue, c.concurrency_key ORDER BY c.turn) + COALESCE(b.running, 0) AS key_place
  FROM candidates c LEFT JOIN busy_keys b ON b.queue = c.queue AND b.concurrency_key = c.concurrency_key
), by_queue AS (
  SELECT k.*, q.max_running, row_number() OVER (PARTITION BY k.queue ORDER BY k.turn) + q.running AS queue_place
  FROM by_key k JOIN open_queues q USING (queue)
  WHERE k.concurrency_key IS NULL OR q.max_per_key IS NULL OR k.key_place <= q.max_per_key
), idle AS (
  UPDATE dispatch_usage u SET active = false FROM chosen c
  WHERE u.queue = c.queue AND u.tenant_id = c.tenant_id
    AND NOT EXISTS (SELECT FROM candidates p WHERE p.queue = c.queue AND p.tenant_id = c.tenant_id)
    AND NOT EXISTS (SELECT FROM tasks t WHERE t.state = 1 AND t.queue = c.queue AND t.tenant_id = c.tenant_id)
)
SELECT * FROM by_queue WHERE max_running IS NULL OR queue_place <= max_running ORDER BY turn LIMIT $2
"""
_MOST = "LIMIT (SELECT most FROM most)"
# Rows that another replica is starting are passed over, but its starts are not counted: they are in no snapshot yet.
_UNLOCKED = _PICK.replace(_MOST, f"{_MOST} FOR NO KEY UPDATE SKIP LOCKED")
# In the order of the keys, so that two replicas wait for each other instead of deadlocking.
_USE = f"""
WITH locked AS (
  SELECT queue, tenant_id FROM dispatch_usage WHERE (queue, tenant_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
  ORDER BY 1, 2 FOR NO KEY UPDATE
)
UPDATE dispatch_usage u
SET used = u.used + c.seconds * {_GROWTH}, estimate = u.estimate + 0.2 * (c.seconds / c.tasks - u.estimate)
FROM locked l, unnest($1::text[], $2::text[], $4::float8[], $5::int[]) AS c (queue, tenant_id, seconds, tasks)
WHERE u.queue = l.queue AND u.tenant_id = l.tenant_id AND c.queue = l.queue AND c.tenant_id = l.tenant_id
"""


class Race:
    """One replica's side."""

    def __init__(self, connection: asyncpg.Connection, load: Load, worker: str, *, today: bool, locked: bool = True) -> None:
        """`locked` is false only to show that the checker notices: then rows are locked, and what is counted is not."""
        self.transactions = 0
        self._connection = connection
        self._queues = list(load.queues)
        self._worker = worker
        self._today = today
        self._locked = locked
        self._epoch: object = None

    async def lease(self, slots: int) -> list[Lease]:
        """Starts at most so many tasks."""
        async with self._connection.transaction():
            rows = await (self._connection.fetch(_TODAY, slots) if self._today else self._pick(slots))
            self.transactions += bool(rows)
            return await start(self._connection, rows, self._worker) if rows else []

    async def use(self, connection: asyncpg.Connection, done: Sequence[tuple[Lease, float]]) -> None:
        """Charges the tenants for what has ended, in the transaction that ends it."""
        if self._today:
            return
        used: dict[tuple[str, str], tuple[float, int]] = {}
        for lease, seconds in done:
            before = used.get((lease.queue, lease.tenant), (0.0, 0))
            used[lease.queue, lease.tenant] = (before[0] + seconds, before[1] + 1)
        queues, tenants = zip(*used, strict=True)
        seconds_of, tasks = zip(*used.values(), strict=True)
        await connection.execute(_USE, queues, tenants, await self._since(connection), seconds_of, tasks)

    async def _pick(self, slots: int) -> list[asyncpg.Record]:
        queues = self._queues
        if self._locked:
            # A third of the queues: the others are left to the other replicas.
            some = random.sample(queues, -(-len(queues) // 3))
            queues = [row[0] for row in await self._connection.fetch(_TRY, some)]
            if not queues:
                await self._connection.execute(_LOCK, some[0])
                queues = some[:1]
        pick = _PICK if self._locked else _UNLOCKED
        found: list[asyncpg.Record] = await self._connection.fetch(pick, queues, slots, await self._since(self._connection))
        return found

    async def _since(self, connection: asyncpg.Connection) -> object:
        if self._epoch is None:
            self._epoch = await connection.fetchval("SELECT pg_postmaster_start_time()")
        return self._epoch
