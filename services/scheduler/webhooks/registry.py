"""All webhooks of all tenants, as this process knows them: read again when they change."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import structlog

from services.common.db.engine_role import EngineDriver
from services.common.errors import DomainError
from services.scheduler.domain.published import EventFilter, parse_event_filter
from services.scheduler.domain.topic_names import ALL_TENANTS
from services.scheduler.domain.webhook import Webhook
from services.scheduler.domain.webhook_endpoint import Endpoint, RetryRules
from services.scheduler.storage.webhooks import COLUMNS, webhook_of

log = structlog.get_logger(__name__)

_VERSIONS = "SELECT uid::text, version, failing_since FROM webhooks"
_READ = f"SELECT {COLUMNS} FROM webhooks WHERE uid = ANY($1::uuid[])"  # noqa: S608 - the names are ours


class Known:
    """A webhook and its receiver."""

    def __init__(self, webhook: Webhook, endpoint: Endpoint) -> None:
        self.webhook = webhook
        self.wanted: EventFilter = parse_event_filter(webhook.filter)
        self.endpoint = endpoint

    @property
    def uid(self) -> str:
        """What it is known by."""
        return self.webhook.uid


class Registry:
    """Reads what changed every now and then."""

    def __init__(self, database: EngineDriver, rules: RetryRules, concurrency: int, poll_seconds: float) -> None:
        self._database = database
        self._rules = rules
        self._concurrency = concurrency
        self._poll_seconds = poll_seconds
        self._known: dict[str, Known] = {}
        self._by_tenant: dict[str, list[Known]] = {}
        self._ready = asyncio.Event()
        self.changes = 0
        """how often something changed."""
        self.next_change = asyncio.Event()
        """is set when something changes, and is another one then."""

    @property
    def all(self) -> Mapping[str, Known]:
        """By uid."""
        return self._known

    @property
    def tenants(self) -> Collection[str]:
        """Those that have webhooks."""
        return self._by_tenant.keys()

    def of_owner(self, owner: str) -> Collection[Known]:
        """The webhooks of a tenant, or of ALL_TENANTS."""
        return self._known.values() if owner == ALL_TENANTS else self._by_tenant.get(owner, ())

    async def ready(self) -> None:
        """Waits until they were read for the first time."""
        await self._ready.wait()

    async def run(self) -> None:
        """Reads until cancelled; survives the database being away."""
        while True:
            try:
                await self.read()
            except DomainError as error:
                log.warning("webhooks_not_read", error=str(error))
            except Exception:
                log.exception("webhooks_not_read")
            await asyncio.sleep(self._poll_seconds)

    async def read(self) -> None:
        """Reads what changed."""
        async with self._database.transaction() as connection:
            found = {uid: (version, since) for uid, version, since in await connection.fetch(_VERSIONS)}
            changed = [
                uid
                for uid, (version, _) in found.items()
                if uid not in self._known or self._known[uid].webhook.version != version
            ]
            rows = await connection.fetch(_READ, changed) if changed else []
        for uid in self._known.keys() - found.keys():
            del self._known[uid]
        for uid, known in self._known.items():
            # Another process may have said so, and have ended before it could take it back.
            known.webhook.failing_since = found[uid][1]
        for row in rows:
            webhook = webhook_of(row)
            self._known[webhook.uid] = Known(webhook, self._endpoint(webhook))
        if rows or len(self._known) != sum(map(len, self._by_tenant.values())):
            self._by_tenant = {}
            for known in self._known.values():
                self._by_tenant.setdefault(known.webhook.tenant_id, []).append(known)
            self.changes += 1
            self.next_change.set()
            self.next_change = asyncio.Event()
        self._ready.set()

    def _endpoint(self, webhook: Webhook) -> Endpoint:
        """What is known of the receiver, unless it is another one, or somebody says that it works."""
        before = self._known.get(webhook.uid)
        same = before is not None and before.webhook.url == webhook.url
        if before is not None and same and before.endpoint.closed == (webhook.failing_since is not None):
            return before.endpoint
        closed = webhook.failing_since is not None and (before is None or same)
        return Endpoint(self._rules, self._concurrency, closed=closed)
