"""TestWebhook: sends a ping, and tells what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from services.scheduler.domain.webhook import Delivered, Outgoing, Webhook
from services.scheduler.domain.webhook_ports import EventSender, WebhookStore
from services.scheduler.usecases.get_webhook import GetWebhook

_AT_ONCE = 16


class TestWebhook:
    """Tests webhooks; what fails here changes nothing of them."""

    __test__ = False

    def __init__(self, store: WebhookStore, sender: EventSender, ping: Callable[[Webhook], Outgoing]) -> None:
        self._get = GetWebhook(store)
        self._sender = sender
        self._ping = ping
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def execute(self, tenant_id: str, webhook_id: str) -> Delivered:
        """What came back; raises WebhookNotFound, or WebhookSecretSealed when it cannot be signed."""
        webhook = await self._get.alone(tenant_id, webhook_id)
        async with self._places:
            return await self._sender.send(webhook.url, webhook.secrets_at(datetime.now(UTC)), self._ping(webhook))
