"""UpdateWebhook: changes what somebody may change of a webhook."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from services.scheduler.domain.errors import EtagMismatch
from services.scheduler.domain.webhook import Webhook
from services.scheduler.domain.webhook_ports import WebhookStore
from services.scheduler.domain.webhook_url import WebhookTargets


class UpdateWebhook:
    """Updates webhooks."""

    def __init__(self, store: WebhookStore, targets: WebhookTargets) -> None:
        self._store = store
        self._targets = targets

    async def execute(self, tenant_id: str, webhook_id: str, values: Mapping[str, str], etag: str) -> Webhook:
        """The webhook with new values by the names of its attributes.

        Raises:
            WebhookNotFound, EtagMismatch, InvalidWebhookUrl, InvalidFilter.
        """
        if "url" in values:
            self._targets.check(values["url"])

        def change(webhook: Webhook, now: datetime) -> None:
            if etag not in ("", webhook.etag):
                raise EtagMismatch("webhook", webhook_id=webhook_id)
            for name, value in values.items():
                setattr(webhook, name, value)
            webhook.check()
            webhook.changed(now)

        return await self._store.change(tenant_id, webhook_id, change)
