"""All webhooks of all tenants, as this process knows them: read again when they change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta

import structlog

from services.common.db.engine_role import EngineDriver
from services.common.errors import DomainError
from services.scheduler.domain.published import EventFilter, parse_event_filter
from services.scheduler.domain.topic_names import ALL_TENANTS
from services.scheduler.domain.webhook import Webhook
from services.scheduler.domain.webhook_endpoint import Endpoint, RetryRules
from services.scheduler.domain.webhook_errors import WebhookSecretsSealed
from services.scheduler.storage.webhook_secrets import WebhookSecrets
from services.scheduler.storage.webhooks import COLUMNS, webhook_of

log = structlog.get_logger(__name__)

SEALED = (
    "its secret is sealed with a master key that the webhook process does not have, so nothing is sent; the operator sets"
    " GUILDMESH_EVENT_MASTER_KEY or GUILDMESH_EVENT_MASTER_KEY_BEFORE, and everything that waits is delivered"
)
"""last_error of such a webhook."""
READY_SECONDS = 30.0
"""for which a process is ready all the same: the mesh comes up, and a secret whose master key is lost can be replaced."""
_VERSIONS = "SELECT uid::text, version, master_key_id, failing_since FROM webhooks"
_MOST_NAMED = 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_READ = f"SELECT {COLUMNS} FROM webhooks WHERE uid = ANY($1::uuid[])"  # noqa: S608 - the names are ours


class Known:
    """A webhook and its receiver."""

    def __init__(self, webhook: Webhook, endpoint: Endpoint, master_key_id: str | None) -> None:
        self.webhook = webhook
        self.master_key_id = master_key_id
        self.wanted: EventFilter = parse_event_filter(webhook.filter)
        self.start_us = 0 if webhook.delivers_from is None else microseconds_of(webhook.delivers_from)
        """the event time from which on it delivers, in microseconds since 1970."""
        self.endpoint = endpoint

    @property
    def uid(self) -> str:
        """What it is known by."""
        return self.webhook.uid


def microseconds_of(moment: datetime) -> int:
    """Since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


class Registry:
    """Reads what changed every now and then."""

    def __init__(
        self,
        database: EngineDriver,
        secrets: WebhookSecrets,
        rules: RetryRules,
        concurrency: int,
        poll_seconds: float,
        tell: Callable[[str, str | None], None],
    ) -> None:
        """`tell` hears of webhooks (by uid) that nothing is sent for, with the reason, and (None) that the reason is gone."""
        self._database = database
        self._secrets = secrets
        self._tell = tell
        self._rules = rules
        self._concurrency = concurrency
        self._poll_seconds = poll_seconds
        self._known: dict[str, Known] = {}
        self._by_tenant: dict[str, list[Known]] = {}
        self._sealed = 0
        self._begun = time.monotonic()
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

    async def check(self) -> None:
        """Raises WebhookSecretsSealed while events wait for a master key that this process does not have."""
        if self._sealed and time.monotonic() - self._begun >= READY_SECONDS:
            raise WebhookSecretsSealed(self._sealed)

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
            found = {uid: rest for uid, *rest in await connection.fetch(_VERSIONS)}
            changed = [uid for uid, (version, master_key_id, _) in found.items() if self._changed(uid, version, master_key_id)]
            rows = await connection.fetch(_READ, changed) if changed else []
        for uid in self._known.keys() - found.keys():
            del self._known[uid]
        for uid, known in self._known.items():
            # Another process may have said so, and have ended before it could take it back.
            known.webhook.failing_since = found[uid][-1]
        for row in rows:
            webhook = webhook_of(row, self._secrets)
            if webhook.sealed and not webhook.paused:
                self._tell(webhook.uid, SEALED)
            elif webhook.failing_since is not None and webhook.last_error == SEALED:
                # Its receiver was never asked.
                webhook.failing_since = None
                self._tell(webhook.uid, None)
            self._known[webhook.uid] = Known(webhook, self._endpoint(webhook), row["master_key_id"])
        if rows or len(self._known) != sum(map(len, self._by_tenant.values())):
            self._by_tenant = {}
            for known in self._known.values():
                self._by_tenant.setdefault(known.webhook.tenant_id, []).append(known)
            self.changes += 1
            self.next_change.set()
            self.next_change = asyncio.Event()
        self._tell_sealed()
        self._ready.set()

    def _changed(self, uid: str, version: int, master_key_id: str | None) -> bool:
        """Whether a webhook is to be read: also when its secrets were sealed anew, perhaps with a key that is here."""
        known = self._known.get(uid)
        return known is None or (known.webhook.version, known.master_key_id) != (version, master_key_id)

    def _tell_sealed(self) -> None:
        """Says how many webhooks wait for a master key, and of which it has been taken back that they do."""
        sealed = [each.webhook for each in self._known.values() if each.webhook.sealed and not each.webhook.paused]
        for webhook in sealed:
            # Told when it was read; another process, which has the key, may have taken it back.
            if webhook.failing_since is None:
                self._tell(webhook.uid, SEALED)
        if len(sealed) > self._sealed:
            names = [f"{webhook.tenant_id}/{webhook.webhook_id}" for webhook in sealed[:_MOST_NAMED]]
            hint = "set GUILDMESH_EVENT_MASTER_KEY, or the key of before as GUILDMESH_EVENT_MASTER_KEY_BEFORE"
            log.error("webhook_secrets_sealed", webhooks=len(sealed), first=names, hint=hint)
        elif self._sealed and not sealed:
            log.info("webhook_secrets_opened")
        self._sealed = len(sealed)

    def _endpoint(self, webhook: Webhook) -> Endpoint:
        """What is known of the receiver, unless it is another one, or somebody says that it works."""
        before = self._known.get(webhook.uid)
        same = before is not None and before.webhook.url == webhook.url
        if before is not None and same and before.endpoint.closed == (webhook.failing_since is not None):
            return before.endpoint
        closed = webhook.failing_since is not None and (before is None or same)
        return Endpoint(self._rules, self._concurrency, closed=closed)
