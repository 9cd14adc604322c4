"""GetWebhook: one webhook and what waits for it."""

from __future__ import annotations

from services.scheduler.domain.webhook import Webhook, WebhookCounts
from services.scheduler.domain.webhook_errors import WebhookNotFound
from services.scheduler.domain.webhook_ports import WebhookStore


class GetWebhook:
    """Reads webhooks."""

    def __init__(self, store: WebhookStore) -> None:
        self._store = store

    async def execute(self, tenant_id: str, webhook_id: str) -> tuple[Webhook, WebhookCounts]:
        """The webhook and how much waits for it; raises WebhookNotFound."""
        webhook = await self.alone(tenant_id, webhook_id)
        return webhook, await self._store.counts(webhook)

    async def alone(self, tenant_id: str, webhook_id: str) -> Webhook:
        """The webhook; raises WebhookNotFound."""
        webhook = await self._store.get(tenant_id, webhook_id)
        if webhook is None:
            raise WebhookNotFound(webhook_id)
        return webhook
