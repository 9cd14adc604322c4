"""PauseWebhook and ResumeWebhook: whether a webhook delivers."""

from __future__ import annotations

from datetime import datetime

from services.scheduler.domain.webhook import Webhook
from services.scheduler.domain.webhook_ports import WebhookStore


class PauseWebhook:
    """Pauses webhooks, or has them go on."""

    def __init__(self, store: WebhookStore, *, paused: bool) -> None:
        self._store = store
        self._paused = paused

    async def execute(self, tenant_id: str, webhook_id: str) -> Webhook:
        """The webhook, paused or not; raises WebhookNotFound."""

        def change(webhook: Webhook, now: datetime) -> None:
            if self._paused:
                webhook.paused = True
            else:
                webhook.resume()
            webhook.changed(now)

        return await self._store.change(tenant_id, webhook_id, change)
