"""Queues: a tenant's own under its row security, the shared ones as the engine role."""
# ruff: noqa: S608 - the names in the statements are ours, the values are arguments

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

import asyncpg
from guildmesh.scheduler.v1.task_pb2 import RetryPolicy as RetryMessage
from guildmesh.scheduler.v1.task_pb2 import Task as TaskMessage

from services.common.db.driver import Driver
from services.common.db.engine_role import EngineDriver
from services.common.errors import ConcurrentChange, DomainError
from services.common.failpoints import fail_point
from services.scheduler.domain.errors import (
    EtagMismatch,
    QueueExists,
    QueueNotEmpty,
    QueueNotFound,
    TooManyQueues,
)
from services.scheduler.domain.event_content import EventContent
from services.scheduler.domain.queue import EVERY_TENANT, MOST_QUEUES, Queue
from services.scheduler.domain.retry import decode_retry
from services.scheduler.domain.wake import Wake
from services.scheduler.storage.counts import count_open_tasks
from services.scheduler.storage.dispatch_owners import FENCE
from services.scheduler.storage.waking import Waker

_NAMES = (
    "tenant_id", "queue", "priority", "retention_days", "dead_letter_retention_days", "max_attempts", "retry",
    "rate_per_second", "rate_burst", "max_running", "max_running_per_key", "paused",
    "event_content",
)  # fmt: skip
COLUMNS = ", ".join((*_NAMES, "tenant_weights", "version", "create_time", "update_time"))
_WRITTEN = (*_NAMES, "tenant_weights")
# A tenant's own queue counts before everyone's of the same name.
_QUEUES = f"""
SELECT * FROM (
  SELECT DISTINCT ON (queue) {COLUMNS} FROM queues WHERE tenant_id IN ($1, '{EVERY_TENANT}')
  ORDER BY queue, tenant_id = '{EVERY_TENANT}'
) q ORDER BY priority DESC, queue
"""
_OWNERS = "SELECT DISTINCT tenant_id FROM queues"
_OWNED = f"SELECT {COLUMNS} FROM queues WHERE tenant_id = $1"
_GET = f"""
SELECT {COLUMNS} FROM queues WHERE queue = $2 AND tenant_id IN ($1, '{EVERY_TENANT}')
ORDER BY tenant_id = '{EVERY_TENANT}' LIMIT 1
"""
# Until the end of the transaction: two that create at once would both be the last that may.
_ALONE = "SELECT pg_advisory_xact_lock(hashtext('guildmesh.scheduler.queues'), hashtext($1))"
_NUMBER = "SELECT count(*) FROM queues WHERE tenant_id = $1"
_SETTLED = "SELECT tenant_id, queue FROM decided_queues WHERE settled AND tenant_id = ANY($1) AND queue = ANY($2)"
_INSERT = f"""
INSERT INTO queues ({", ".join(_WRITTEN)}, create_time, update_time)
VALUES ({", ".join(f"${place}" for place in range(1, len(_WRITTEN) + 1))}, clock_timestamp(), clock_timestamp())
ON CONFLICT DO NOTHING RETURNING {COLUMNS}
"""
_LOCK = f"SELECT {COLUMNS} FROM queues WHERE tenant_id = $1 AND queue = $2 FOR UPDATE"
_UPDATE = f"""
UPDATE queues SET {", ".join(f"{name} = ${place}" for place, name in enumerate(_WRITTEN, 1))},
  version = version + 1, update_time = clock_timestamp()
WHERE tenant_id = $1 AND queue = $2 RETURNING {COLUMNS}
"""
_DELETE = "DELETE FROM queues WHERE tenant_id = $1 AND queue = $2"
# For longer than a look through all tasks may take. Whoever dies meanwhile leaves it open again after that.
_CLOSE = """
UPDATE queues SET closed_until = clock_timestamp() + interval '15 s' WHERE tenant_id = $1 AND queue = $2 RETURNING closed_until
"""
_OPEN = "UPDATE queues SET closed_until = NULL WHERE tenant_id = $1 AND queue = $2 AND closed_until = $3"
# Once opened, by time or by somebody else, it is closed until another moment if at all.
_DELETE_CLOSED = """
DELETE FROM queues WHERE tenant_id = $1 AND queue = $2 AND closed_until = $3 AND closed_until > clock_timestamp() RETURNING queue
"""
# No index is in order of the queues: it would cost each task two entries, and queues are deleted hardly ever.
_SCAN = "SET LOCAL enable_seqscan = on"
_HAS_TASKS = "SELECT EXISTS (SELECT FROM tasks WHERE tenant_id = $1 AND queue = $2)"
_SHARED_HAS_TASKS = f"""
SELECT EXISTS (
  SELECT FROM tasks t WHERE t.queue = $2 AND $1 = '{EVERY_TENANT}'
    AND NOT EXISTS (SELECT FROM queues q WHERE q.queue = t.queue AND q.tenant_id = t.tenant_id)
)
"""
# A create looks for the queue in the statement that inserts the task, whose snapshot is newer than its locks: it waits here, and
# then finds no queue; or it was first, and we wait for it and find its task. Whoever creates waits behind us no longer than this.
# Starts that hold the fence may create tasks, too: it is taken first, as they take it.
_SHUT = f"""
SET LOCAL lock_timeout = '500ms';
SELECT pg_advisory_xact_lock({FENCE});
LOCK TABLE queues IN ACCESS EXCLUSIVE MODE
"""


class StoredQueues:
    """The queues in the database."""

    def __init__(self, database: Driver, engine: EngineDriver, waker: Waker) -> None:
        self._database = database
        self._engine = engine
        self._waker = waker

    async def queues(self, tenant_id: str) -> Sequence[Queue]:
        """The queues of the tenant and of everyone, highest priority first."""
        async with self._database.tenant(tenant_id) as connection:
            found = [queue_of(row) for row in await connection.fetch(_QUEUES, tenant_id)]
        return await self._with_force(found)

    async def owners(self) -> Collection[str]:
        """Who has any queues."""
        async with self._engine.transaction() as connection:
            return frozenset(row[0] for row in await connection.fetch(_OWNERS))

    async def owned(self, owner: str) -> Sequence[Queue]:
        """The queues of an owner alone."""
        async with self._as_owner(owner) as connection:
            return [queue_of(row) for row in await connection.fetch(_OWNED, owner)]

    async def get(self, tenant_id: str, queue: str, *, shared: bool) -> Queue | None:
        """The tenant's own queue or else the shared one; with `shared` that one in any case."""
        async with self._database.tenant(tenant_id) as connection:
            row = await connection.fetchrow(_GET, EVERY_TENANT if shared else tenant_id, queue)
        return None if row is None else (await self._with_force([queue_of(row)]))[0]

    async def create(self, queue: Queue) -> Queue:
        """Keeps a new queue; raises QueueExists or TooManyQueues."""
        async with self._told(queue.tenant_id) as connection:
            await connection.execute(_ALONE, queue.tenant_id)
            if await connection.fetchval(_NUMBER, queue.tenant_id) >= MOST_QUEUES:
                raise TooManyQueues(MOST_QUEUES)
            row = await connection.fetchrow(_INSERT, *_values(queue))
            if row is None:
                raise QueueExists(queue.queue)
        return (await self._with_force([queue_of(row)]))[0]

    async def change(self, owner: str, queue: str, change: Callable[[Queue], Queue]) -> Queue:
        """Applies a change while nobody else changes the queue; raises QueueNotFound, and what the change raises."""
        async with self._told(owner) as connection:
            row = await connection.fetchrow(_LOCK, owner, queue)
            if row is None:
                raise QueueNotFound(queue, ())
            changed = queue_of(await connection.fetchrow(_UPDATE, *_values(change(queue_of(row)))))
        return (await self._with_force([changed]))[0]

    async def delete(self, owner: str, queue: str, etag: str) -> None:
        """Deletes a queue without tasks; raises QueueNotFound, EtagMismatch, QueueNotEmpty or ConcurrentChange."""
        # Most queues that cannot be deleted are found without keeping anybody from creating tasks.
        async with self._as_owner(owner) as connection:
            await _check_empty(connection, owner, queue)
        closed_until = None
        async with self._alone(owner, queue, etag) as connection:
            # Mostly no queue of this name has tasks, and a look at all tasks would take half a second of a million.
            if await count_open_tasks(connection, queue) == 0:
                await connection.execute(_DELETE, owner, queue)
            else:
                closed_until = await connection.fetchval(_CLOSE, owner, queue)
            await fail_point("scheduler.delete_queue.before_commit", connection.terminate)
        if closed_until is not None:
            await self._delete_closed(owner, queue, etag, closed_until)
        await fail_point("scheduler.delete_queue.after_commit")

    async def _delete_closed(self, owner: str, queue: str, etag: str, closed_until: datetime) -> None:
        """Deletes a queue that takes no tasks any more; nobody waits while it is looked whether it has some."""
        try:
            async with self._as_owner(owner) as connection:
                await _check_empty(connection, owner, queue)
            async with self._alone(owner, queue, etag) as connection:
                if await connection.fetchval(_DELETE_CLOSED, owner, queue, closed_until) is None:
                    raise ConcurrentChange
        except DomainError:
            async with self._told(owner) as connection:
                await connection.execute(_OPEN, owner, queue, closed_until)
            raise

    @asynccontextmanager
    async def _alone(self, owner: str, queue: str, etag: str) -> AsyncIterator[asyncpg.Connection]:
        """One transaction beside which nobody creates tasks; raises QueueNotFound or EtagMismatch."""
        # For the counts, which are every tenant's, as the engine; each statement names the owner.
        async with self._told(owner, engine=True) as connection:
            await connection.execute(_SHUT)
            row = await connection.fetchrow(_LOCK, owner, queue)
            if row is None:
                raise QueueNotFound(queue, ())
            if etag not in ("", queue_of(row).etag):
                raise EtagMismatch("queue", queue=queue)
            yield connection

    async def _with_force(self, queues: Sequence[Queue]) -> Sequence[Queue]:
        """The queues, as they were committed before this, with whether their limits are in force.

        Only once they are committed is there something to be told: what takes a queue off the list, when it had no limits, may be
        committed before the first limit is, and then something could still be created past it.
        """
        limited = [queue for queue in queues if queue.limited]
        if not limited:
            return queues
        async with self._engine.transaction() as connection:
            rows = await connection.fetch(_SETTLED, *zip(*{(each.tenant_id, each.queue) for each in limited}, strict=True))
        settled = {(row[0], row[1]) for row in rows}
        return [replace(each, limits_in_force=not each.limited or (each.tenant_id, each.queue) in settled) for each in queues]

    @asynccontextmanager
    async def _told(self, owner: str, *, engine: bool = False) -> AsyncIterator[asyncpg.Connection]:
        """One transaction as the owner of queues, of whose change everybody is told, here and in other processes."""
        async with self._engine.transaction() if engine else self._as_owner(owner) as connection:
            yield connection
        # The others, and this process once more, hear it of the table's triggers.
        self._waker.wake(Wake(origin=self._waker.origin, queues={owner}))

    @asynccontextmanager
    async def _as_owner(self, owner: str) -> AsyncIterator[asyncpg.Connection]:
        transaction = self._engine.transaction() if owner == EVERY_TENANT else self._database.tenant(owner)
        async with transaction as connection:
            yield connection


async def _check_empty(connection: asyncpg.Connection, owner: str, queue: str) -> None:
    await connection.execute(_SCAN)
    if await connection.fetchval(_SHARED_HAS_TASKS if owner == EVERY_TENANT else _HAS_TASKS, owner, queue):
        raise QueueNotEmpty(queue)


def queue_of(row: asyncpg.Record) -> Queue:
    """The queue in a row that has COLUMNS."""
    fields = {name: row[name] for name in (*_NAMES, "version", "create_time", "update_time")}
    max_attempts, retry = fields["max_attempts"], fields["retry"]
    if fields["event_content"] is not None:
        fields["event_content"] = EventContent(fields["event_content"])
    return Queue(
        **fields,
        tenant_weights=json.loads(row["tenant_weights"]),
        max_attempts_spec=b"" if max_attempts is None else TaskMessage(max_attempts=max_attempts).SerializeToString(),
        retry_spec=b"" if retry is None else TaskMessage(retry_policy=_retry_message(retry)).SerializeToString(),
    )


def _retry_message(text: str) -> RetryMessage:
    policy = decode_retry(text)
    message = RetryMessage(backoff_multiplier=policy.multiplier, jitter=policy.jitter, non_retryable_reasons=policy.non_retryable)
    message.initial_backoff.FromMilliseconds(policy.initial_ms)
    message.max_backoff.FromMilliseconds(policy.max_ms)
    return message


def _values(queue: Queue) -> list[object]:
    if queue.rate_per_second is not None and queue.rate_burst is None:
        queue = replace(queue, rate_burst=max(1, math.ceil(queue.rate_per_second)))
    return [*(getattr(queue, name) for name in _NAMES), json.dumps(dict(queue.tenant_weights))]
