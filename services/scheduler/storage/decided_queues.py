"""For which queues one replica decides what starts: those with limits, and those of all tenants in which several wait.

A queue that comes to have limits may have tasks that nobody decided on: `Decided.convert` goes through all tasks once and again
when nothing can be created by what was known before. That is so `SETTLED` seconds later: whoever creates tasks has read the list
less than `FRESH` seconds ago (`DecidedQueues`), and a transaction ends within 8 s (services.common.db.driver).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import asyncpg
import structlog

from services.common.db.engine_role import EngineDriver
from services.common.errors import DomainError
from services.scheduler.domain.decision import Converted, KnownQueues
from services.scheduler.domain.limits import QueueKey
from services.scheduler.domain.queue import EVERY_TENANT
from services.scheduler.storage.decided_batch import LIMITS, limits_of
from services.scheduler.storage.dispatch_owners import epoch_transaction

log = structlog.get_logger(__name__)

FRESH = 3.0
SETTLED = 12.0
_POLL_SECONDS = 1.0
_WALKED = 2000
"""tasks that a step of `convert` looks at."""
FIRST = "00000000-0000-0000-0000-000000000000"
_LIMITED = """paused OR max_running IS NOT NULL OR max_running_per_key IS NOT NULL OR rate_per_second IS NOT NULL"""
# Who has a queue of its own name is in none of everyone's.
_READ = f"""
SELECT q.tenant_id, q.queue, d.queue IS NOT NULL OR {_LIMITED} FROM queues q LEFT JOIN decided_queues d USING (tenant_id, queue)
WHERE q.queue IN (SELECT queue FROM decided_queues UNION ALL SELECT queue FROM queues WHERE {_LIMITED})
"""  # noqa: S608 - constants only
_QUEUES = f"""
SELECT q.tenant_id, q.queue, {LIMITS}, {_LIMITED}, d.settled FROM queues q LEFT JOIN decided_queues d USING (tenant_id, queue)
WHERE {_LIMITED}
UNION ALL
SELECT q.tenant_id, q.queue, {LIMITS}, false, d.settled FROM decided_queues d JOIN queues q USING (tenant_id, queue)
WHERE NOT ({_LIMITED})
UNION ALL
SELECT d.tenant_id, d.queue, 5, NULL, NULL, NULL, NULL, false, '{{}}', false, d.settled FROM decided_queues d
WHERE NOT EXISTS (SELECT FROM queues q WHERE q.tenant_id = d.tenant_id AND q.queue = d.queue)
"""  # noqa: S608 - constants only
_VERSION = "SELECT limits_version FROM dispatch_epochs WHERE scope = 0"
_DECIDE = """
INSERT INTO decided_queues (tenant_id, queue) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING
"""
_SHARE = """
INSERT INTO decided_queues (tenant_id, queue)
SELECT '*', w.queue FROM unnest($1::text[], $2::text[]) AS w (tenant_id, queue)
WHERE EXISTS (SELECT FROM queues q WHERE q.tenant_id = '*' AND q.queue = w.queue)
  AND NOT EXISTS (SELECT FROM queues q WHERE q.tenant_id = w.tenant_id AND q.queue = w.queue)
GROUP BY w.queue HAVING count(DISTINCT w.tenant_id) > 1
ON CONFLICT DO NOTHING
"""
_SETTLE = "UPDATE decided_queues SET settled = true WHERE (tenant_id, queue) IN (SELECT * FROM unnest($1::text[], $2::text[]))"
_RELEASE = "DELETE FROM decided_queues WHERE (tenant_id, queue) IN (SELECT * FROM unnest($1::text[], $2::text[]))"
# Rows are locked in the order of the ids, as everywhere.
_CONVERT = f"""
WITH walked AS MATERIALIZED (
  SELECT task_id, tenant_id, queue, kind, queue_tenant, state FROM tasks WHERE task_id > $1 ORDER BY task_id LIMIT {_WALKED}
), found AS MATERIALIZED (
  SELECT w.task_id, d.tenant_id AS queue_tenant FROM walked w JOIN decided_queues d
    ON d.queue = w.queue AND (d.tenant_id = w.tenant_id OR d.tenant_id = '*' AND NOT EXISTS (
      SELECT FROM queues q WHERE q.tenant_id = w.tenant_id AND q.queue = w.queue))
  WHERE w.queue_tenant IS NULL
), locked AS MATERIALIZED (
  SELECT t.task_id, f.queue_tenant FROM tasks t JOIN found f USING (task_id)
  WHERE t.queue_tenant IS NULL ORDER BY t.task_id FOR NO KEY UPDATE OF t
), waiting AS (
  SELECT DISTINCT tenant_id, queue, kind FROM walked
  WHERE state = 1 AND queue_tenant IS NULL AND task_id NOT IN (SELECT task_id FROM found)
), changed AS (
  UPDATE tasks t SET queue_tenant = l.queue_tenant FROM locked l WHERE t.task_id = l.task_id RETURNING t.task_id::text
)
SELECT (SELECT max(task_id::text) FROM walked), (SELECT count(*) FROM walked), ARRAY(SELECT task_id FROM changed),
  ARRAY(SELECT tenant_id FROM waiting ORDER BY waiting), ARRAY(SELECT queue FROM waiting ORDER BY waiting),
  ARRAY(SELECT kind FROM waiting ORDER BY waiting)
"""  # noqa: S608 - constants only


class DecidedQueues:
    """The list, as this process knows it: whoever creates tasks asks it."""

    def __init__(self, database: EngineDriver) -> None:
        self._database = database
        self._known: dict[str, dict[str, bool]] = {}
        """of each name the queues by tenant, and whether one replica decides for them."""
        self._read_at = -FRESH
        self._changed = asyncio.Event()

    @property
    def empty(self) -> bool:
        """Whether no queue is on it."""
        return not self._known

    def tenant_of(self, tenant_id: str, queue: str) -> str | None:
        """The tenant (* for all) of the queue that a tenant's tasks wait in, when one replica decides for it; else None."""
        named = self._known.get(queue)
        if named is None:
            return None
        owner = tenant_id if tenant_id in named else EVERY_TENANT
        return owner if named.get(owner) else None

    def changed(self) -> None:
        """Says that the list has changed."""
        self._changed.set()

    async def ensure_fresh(self, connection: asyncpg.Connection | None) -> None:
        """Reads the list when that was too long ago; to be called within the transaction that creates by it.

        That transaction reads it where it may see all tenants: with no connections left, waiting for a second would be in vain.
        """
        if time.monotonic() - self._read_at <= FRESH:
            return
        if connection is None:
            await self.read()
        else:
            begun = time.monotonic()
            self._keep(await connection.fetch(_READ), begun)

    async def read(self) -> None:
        """Reads the list."""
        begun = time.monotonic()
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_READ)
        self._keep(rows, begun)

    def _keep(self, rows: Sequence[asyncpg.Record], begun: float) -> None:
        known: dict[str, dict[str, bool]] = {}
        for tenant_id, queue, decided in rows:
            known.setdefault(queue, {})[tenant_id] = decided
        self._known, self._read_at = known, begun

    async def run(self) -> None:
        """Reads it every second and whenever it has changed, until cancelled; survives the database being away."""
        while True:
            self._changed.clear()
            try:
                await self.read()
            except DomainError as error:
                log.warning("decided_queues_not_read", error=str(error))
            except Exception:
                log.exception("decided_queues_not_read")
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue


class QueueList:
    """The list, as the replica that decides writes it."""

    def __init__(self, database: EngineDriver) -> None:
        self._database = database

    async def queues(self) -> KnownQueues:
        """The queues on the list, and those that should be."""
        async with self._database.transaction() as connection:
            # Before the queues: what changes in between is refused, and read again.
            version = await connection.fetchval(_VERSION)
            rows = await connection.fetch(_QUEUES)
        limits = {(row[0], row[1]): limits_of(row) for row in rows}
        limited = frozenset((row[0], row[1]) for row in rows if row[9])
        return KnownQueues(limits, limited, {(row[0], row[1]): row[10] for row in rows if row[10] is not None}, version)

    async def decide_on(self, epoch: int, limited: Sequence[QueueKey], waiting: Sequence[tuple[str, str]]) -> None:
        """Puts queues on the list; raises EpochOver."""
        async with epoch_transaction(self._database, epoch) as connection:
            await connection.execute(_DECIDE, *_columns(limited))
            await connection.execute(_SHARE, *_columns(waiting))

    async def settle(self, epoch: int, queues: Sequence[QueueKey]) -> None:
        """Notes that nothing of queues can start in another way; raises EpochOver."""
        await self._write(epoch, _SETTLE, queues)

    async def release(self, epoch: int, queues: Sequence[QueueKey]) -> None:
        """Takes queues off the list; raises EpochOver."""
        await self._write(epoch, _RELEASE, queues)

    async def convert(self, after: str) -> Converted:
        """One step through all tasks; see QueueDecisions."""
        async with self._database.transaction() as connection:
            last, walked, changed, *waiting = await connection.fetchrow(_CONVERT, after or FIRST)
        return Converted(last if walked == _WALKED else None, changed, list(zip(*waiting, strict=True)))

    async def _write(self, epoch: int, statement: str, queues: Sequence[QueueKey]) -> None:
        async with epoch_transaction(self._database, epoch) as connection:
            await connection.execute(statement, *_columns(queues))


def _columns(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [first for first, _ in pairs], [second for _, second in pairs]
