"""CreateWebhook: keeps a webhook."""

from __future__ import annotations

from services.common.ids import new_id
from services.scheduler.domain.webhook import Webhook
from services.scheduler.domain.webhook_ports import WebhookStore
from services.scheduler.domain.webhook_url import WebhookTargets


class CreateWebhook:
    """Creates webhooks."""

    def __init__(self, store: WebhookStore, targets: WebhookTargets) -> None:
        self._store = store
        self._targets = targets

    async def execute(self, webhook: Webhook) -> Webhook:
        """The new webhook; it gets an id when it has none.

        Raises:
            InvalidWebhookUrl, InvalidFilter, WebhookExists, TooManyWebhooks.
        """
        self._targets.check(webhook.url)
        webhook.check()
        webhook.uid = new_id()
        webhook.webhook_id = webhook.webhook_id or webhook.uid
        return await self._store.create(webhook)
