"""RotateWebhookSecret: gives a webhook a new secret."""

from __future__ import annotations

from datetime import datetime, timedelta

from services.scheduler.domain.webhook import Webhook
from services.scheduler.domain.webhook_ports import WebhookStore


class RotateWebhookSecret:
    """Rotates secrets."""

    def __init__(self, store: WebhookStore) -> None:
        self._store = store

    async def execute(self, tenant_id: str, webhook_id: str, overlap: timedelta) -> Webhook:
        """The webhook with its new secret; the one before is valid for `overlap`.

        Raises:
            WebhookNotFound.
            WebhookSecretSealed: the one before cannot be opened, and is to stay valid.
        """

        def change(webhook: Webhook, now: datetime) -> None:
            webhook.rotate(overlap, now)
            webhook.changed(now)

        return await self._store.change(tenant_id, webhook_id, change)
