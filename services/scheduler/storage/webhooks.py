"""Webhooks of one tenant, under its row security."""
# ruff: noqa: S608 - the names in the statements are ours, the values are arguments

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import asyncpg
from guildmesh.events.v1.task_event_pb2 import TaskEvent

from services.common.db.driver import Driver
from services.common.ids import is_id
from services.scheduler.domain.errors import EtagMismatch
from services.scheduler.domain.shards import LANES, lane_of, shards_of
from services.scheduler.domain.webhook import MOST_REPLAYED, FailedDelivery, Webhook, WebhookCounts, delivery_key
from services.scheduler.domain.webhook_errors import (
    FailedDeliveryNotFound,
    TooManyWebhooks,
    WebhookExists,
    WebhookNotFound,
)
from services.scheduler.storage.webhook_secrets import SECRET_COLUMNS, Kept, WebhookSecrets

# The times of events are told by a clock that is behind the database's by less than this (services.common.db.clock).
_EVENT_TIMES_BEHIND = timedelta(seconds=0.1)
_NAMES = (
    "tenant_id", "webhook_id", "url", "filter", "description", "created_by", "previous_secret_expire_time", "uid", "version",
    "generation", "start_time", "start_generation", "paused", "failing_since", "missed_time", "last_error", "create_time",
    "update_time",
)  # fmt: skip
COLUMNS = ", ".join((*_NAMES, *SECRET_COLUMNS))
# Until the end of the transaction: two that create at once would both be the last that may.
_ALONE = "SELECT pg_advisory_xact_lock(hashtext('guildmesh.scheduler.webhooks'), hashtext($1))"
_NUMBER = "SELECT count(*) FROM (SELECT FROM webhooks WHERE tenant_id = $1 LIMIT $2::bigint + 1) w"
_INSERT = f"""
INSERT INTO webhooks ({COLUMNS}) VALUES ({", ".join(f"${place}" for place in range(1, len(_NAMES) + len(SECRET_COLUMNS) + 1))})
ON CONFLICT DO NOTHING RETURNING true
"""
_GET = f"SELECT {COLUMNS} FROM webhooks WHERE tenant_id = $1 AND webhook_id = $2"
_LIST = f"SELECT {COLUMNS} FROM webhooks WHERE tenant_id = $1 AND webhook_id > $2 ORDER BY webhook_id LIMIT $3"
# FOR UPDATE, since who delivers holds the key while it writes what waits. The clock is read above the lock.
_LOCK = f"""
WITH locked AS MATERIALIZED (SELECT {COLUMNS} FROM webhooks WHERE tenant_id = $1 AND webhook_id = $2 FOR UPDATE)
SELECT *, clock_timestamp() AS now FROM locked
"""
_UPDATE = f"""
UPDATE webhooks SET {", ".join(f"{name} = ${place}" for place, name in enumerate(_NAMES, 1))}
WHERE tenant_id = $1 AND webhook_id = $2
"""
_SET_SECRETS = """
UPDATE webhooks SET secret = $3, previous_secret = $4, master_key_id = $5 WHERE tenant_id = $1 AND webhook_id = $2
"""
_DELETE = "DELETE FROM webhooks WHERE tenant_id = $1 AND webhook_id = $2"
_COUNTS = """
SELECT (SELECT count(*) FROM webhook_deliveries WHERE tenant_id = $1 AND uid = $2 AND fail_time IS NULL),
  (SELECT count(*) FROM webhook_deliveries WHERE tenant_id = $1 AND uid = $2 AND fail_time IS NOT NULL),
  EXISTS (SELECT FROM webhook_backlogs WHERE tenant_id = $1 AND uid = $2)
"""
_FORGET_WAITING = "DELETE FROM webhook_deliveries WHERE tenant_id = $1 AND uid = $2 AND fail_time IS NULL"
_FORGET_LINES = "DELETE FROM webhook_lines WHERE tenant_id = $1 AND uid = $2"
_SET_BACK = f"""
INSERT INTO webhook_backlogs (tenant_id, uid, lane, start_time) SELECT $1, $2, lane, $3 FROM generate_series(0, {LANES - 1}) lane
ON CONFLICT (tenant_id, uid, lane) DO UPDATE SET start_time = EXCLUDED.start_time, positions = NULL
"""
_FAILED = """
SELECT task_id, number, attempts, status_code, error, fail_time, event FROM webhook_deliveries
WHERE tenant_id = $1 AND uid = $2 AND fail_time IS NOT NULL
"""
_LIST_FAILED = f"{_FAILED} AND (task_id, number) > ($3::uuid, $4::int) ORDER BY task_id, number LIMIT $5"
_GET_FAILED = f"{_FAILED} AND task_id = $3::uuid AND number = $4"
_REPLAY_ONE = """
UPDATE webhook_deliveries SET fail_time = NULL, attempts = 0
WHERE tenant_id = $1 AND uid = $2 AND task_id = $3::uuid AND number = $4 AND fail_time IS NOT NULL RETURNING task_id
"""
_IN_TIME = "fail_time >= COALESCE($3::timestamptz, '-infinity') AND fail_time < COALESCE($4::timestamptz, 'infinity')"
_REPLAY_MANY = f"""
WITH chosen AS MATERIALIZED (
  SELECT task_id, number FROM webhook_deliveries WHERE tenant_id = $1 AND uid = $2 AND {_IN_TIME}
  ORDER BY fail_time, task_id, number LIMIT {MOST_REPLAYED} FOR UPDATE
)
UPDATE webhook_deliveries d SET fail_time = NULL, attempts = 0 FROM chosen c
WHERE d.tenant_id = $1 AND d.uid = $2 AND d.task_id = c.task_id AND d.number = c.number RETURNING d.task_id
"""
_COUNT_FAILED = f"SELECT count(*) FROM webhook_deliveries WHERE tenant_id = $1 AND uid = $2 AND {_IN_TIME}"
# A line that is there is locked, too, so that who is about to take it away sees what has come to it.
_QUEUE = """
INSERT INTO webhook_lines (tenant_id, uid, task_id, lane, next_time)
SELECT $1, $2, task_id, lane, clock_timestamp() FROM unnest($3::uuid[], $4::smallint[]) n (task_id, lane) ORDER BY task_id
ON CONFLICT (tenant_id, uid, task_id) DO UPDATE SET next_time = LEAST(webhook_lines.next_time, EXCLUDED.next_time)
"""
_DELETE_FAILED = """
DELETE FROM webhook_deliveries
WHERE tenant_id = $1 AND uid = $2 AND task_id = $3::uuid AND number = $4 AND fail_time IS NOT NULL RETURNING true
"""
_FIRST_ID = "00000000-0000-0000-0000-000000000000"


class Webhooks:
    """Implements the port WebhookStore."""

    def __init__(self, database: Driver, most: int, secrets: WebhookSecrets) -> None:
        """A tenant has at most `most`."""
        self._database = database
        self._most = most
        self._secrets = secrets

    async def create(self, webhook: Webhook) -> Webhook:
        """See WebhookStore."""
        async with self._database.tenant(webhook.tenant_id) as connection:
            await connection.execute(_ALONE, webhook.tenant_id)
            now = webhook.create_time = webhook.update_time = await connection.fetchval("SELECT clock_timestamp()")
            webhook.begin(now - _EVENT_TIMES_BEHIND)
            if await connection.fetchval(_INSERT, *_values(webhook), *self._kept(webhook)) is None:
                raise WebhookExists(webhook.webhook_id)
            if await connection.fetchval(_NUMBER, webhook.tenant_id, self._most) > self._most:
                raise TooManyWebhooks(self._most)
            await connection.execute(_SET_BACK, webhook.tenant_id, webhook.uid, webhook.start_time)
        return webhook

    async def get(self, tenant_id: str, webhook_id: str) -> Webhook | None:
        """See WebhookStore."""
        async with self._database.tenant(tenant_id) as connection:
            row = await connection.fetchrow(_GET, tenant_id, webhook_id)
        return None if row is None else webhook_of(row, self._secrets)

    async def counts(self, webhook: Webhook) -> WebhookCounts:
        """See WebhookStore."""
        async with self._database.tenant(webhook.tenant_id) as connection:
            return WebhookCounts(*await connection.fetchrow(_COUNTS, webhook.tenant_id, webhook.uid))

    async def list(self, tenant_id: str, after: str, limit: int) -> Sequence[Webhook]:
        """See WebhookStore."""
        async with self._database.tenant(tenant_id) as connection:
            return [webhook_of(row, self._secrets) for row in await connection.fetch(_LIST, tenant_id, after, limit)]

    async def change(self, tenant_id: str, webhook_id: str, change: Callable[[Webhook, datetime], None]) -> Webhook:
        """See WebhookStore."""
        async with self._database.tenant(tenant_id) as connection:
            webhook, now = await self._locked(connection, tenant_id, webhook_id)
            before = webhook.secret, webhook.previous_secret
            change(webhook, now)
            await connection.execute(_UPDATE, *_values(webhook))
            # What this process cannot open stays as it is.
            if (webhook.secret, webhook.previous_secret) != before:
                await connection.execute(_SET_SECRETS, tenant_id, webhook_id, *self._kept(webhook))
        return webhook

    async def delete(self, tenant_id: str, webhook_id: str, etag: str) -> None:
        """See WebhookStore."""
        async with self._database.tenant(tenant_id) as connection:
            webhook, _ = await self._locked(connection, tenant_id, webhook_id)
            if etag not in ("", webhook.etag):
                raise EtagMismatch("webhook", webhook_id=webhook_id)
            await connection.execute(_DELETE, tenant_id, webhook_id)

    async def set_back(self, tenant_id: str, webhook_id: str, check: Callable[[datetime], datetime]) -> Webhook:
        """See WebhookStore."""
        async with self._database.tenant(tenant_id) as connection:
            webhook, now = await self._locked(connection, tenant_id, webhook_id)
            start = check(now)
            webhook.generation += 1
            webhook.begin(start)
            webhook.changed(now)
            await connection.execute(_UPDATE, *_values(webhook))
            # What waits comes again in its turn.
            await connection.execute(_FORGET_LINES, tenant_id, webhook.uid)
            await connection.execute(_FORGET_WAITING, tenant_id, webhook.uid)
            await connection.execute(_SET_BACK, tenant_id, webhook.uid, start)
        return webhook

    async def list_failed(self, webhook: Webhook, after: tuple[str, int] | None, limit: int) -> Sequence[FailedDelivery]:
        """See WebhookStore."""
        task_id, number = after or (_FIRST_ID, 0)
        async with self._database.tenant(webhook.tenant_id) as connection:
            rows = await connection.fetch(_LIST_FAILED, webhook.tenant_id, webhook.uid, task_id, number, limit)
        return [_failed_of(row, with_event=False) for row in rows]

    async def get_failed(self, webhook: Webhook, delivery_id: str) -> FailedDelivery:
        """See WebhookStore."""
        async with self._database.tenant(webhook.tenant_id) as connection:
            row = await connection.fetchrow(_GET_FAILED, webhook.tenant_id, webhook.uid, *_key(webhook, delivery_id))
        if row is None:
            raise FailedDeliveryNotFound(webhook.webhook_id, delivery_id)
        return _failed_of(row, with_event=True)

    async def replay_failed(self, webhook: Webhook, delivery_id: str) -> None:
        """See WebhookStore."""
        async with self._database.tenant(webhook.tenant_id) as connection:
            task_id = await connection.fetchval(_REPLAY_ONE, webhook.tenant_id, webhook.uid, *_key(webhook, delivery_id))
            if task_id is None:
                raise FailedDeliveryNotFound(webhook.webhook_id, delivery_id)
            await _queue(connection, webhook, [str(task_id)])

    async def replay_all_failed(self, webhook: Webhook, start: datetime | None, end: datetime | None) -> tuple[int, int]:
        """See WebhookStore."""
        async with self._database.tenant(webhook.tenant_id) as connection:
            rows = await connection.fetch(_REPLAY_MANY, webhook.tenant_id, webhook.uid, start, end)
            await _queue(connection, webhook, sorted({str(row["task_id"]) for row in rows}))
            left = await connection.fetchval(_COUNT_FAILED, webhook.tenant_id, webhook.uid, start, end)
        return len(rows), left

    async def delete_failed(self, webhook: Webhook, delivery_id: str) -> None:
        """See WebhookStore."""
        async with self._database.tenant(webhook.tenant_id) as connection:
            if not await connection.fetchval(_DELETE_FAILED, webhook.tenant_id, webhook.uid, *_key(webhook, delivery_id)):
                raise FailedDeliveryNotFound(webhook.webhook_id, delivery_id)

    async def _locked(self, connection: asyncpg.Connection, tenant_id: str, webhook_id: str) -> tuple[Webhook, datetime]:
        row = await connection.fetchrow(_LOCK, tenant_id, webhook_id)
        if row is None:
            raise WebhookNotFound(webhook_id)
        return webhook_of(row, self._secrets), row["now"]

    def _kept(self, webhook: Webhook) -> Kept:
        assert webhook.secret is not None
        return self._secrets.seal(webhook.tenant_id, webhook.uid, webhook.secret, webhook.previous_secret)


def webhook_of(row: asyncpg.Record, secrets: WebhookSecrets) -> Webhook:
    """The webhook in a row that has COLUMNS."""
    secret, previous = secrets.open(row)
    return Webhook(**{name: row[name] for name in _NAMES} | {"uid": str(row["uid"])}, secret=secret, previous_secret=previous)


async def _queue(connection: asyncpg.Connection, webhook: Webhook, task_ids: Sequence[str]) -> None:
    lanes = [lane_of(shard) for shard in shards_of(task_ids)]
    await connection.execute(_QUEUE, webhook.tenant_id, webhook.uid, list(task_ids), lanes)


def _key(webhook: Webhook, delivery_id: str) -> tuple[str, int]:
    key = delivery_key(delivery_id)
    if key is None or not is_id(key[0]):
        raise FailedDeliveryNotFound(webhook.webhook_id, delivery_id)
    return key


def _failed_of(row: asyncpg.Record, *, with_event: bool) -> FailedDelivery:
    return FailedDelivery(
        task_id=str(row["task_id"]),
        number=row["number"],
        event_type=TaskEvent.FromString(row["event"]).type,
        attempts=row["attempts"],
        status_code=row["status_code"],
        error=row["error"],
        fail_time=row["fail_time"],
        event=row["event"] if with_event else None,
    )


def _values(webhook: Webhook) -> list[object]:
    return [getattr(webhook, name) for name in _NAMES]
