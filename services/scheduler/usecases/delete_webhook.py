"""DeleteWebhook: deletes a webhook and what waits for it."""

from __future__ import annotations

from services.scheduler.domain.webhook_ports import WebhookStore


class DeleteWebhook:
    """Deletes webhooks."""

    def __init__(self, store: WebhookStore) -> None:
        self._store = store

    async def execute(self, tenant_id: str, webhook_id: str, etag: str) -> None:
        """Deletes it, with an etag only if nobody has changed it since; raises WebhookNotFound or EtagMismatch."""
        await self._store.delete(tenant_id, webhook_id, etag)
