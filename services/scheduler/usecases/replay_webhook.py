"""ReplayWebhook: delivers the events from a time on again."""

from __future__ import annotations

from datetime import datetime

from services.common.errors import InvalidRequest
from services.scheduler.domain.webhook import Webhook
from services.scheduler.domain.webhook_ports import WebhookStore


class ReplayWebhook:
    """Sets webhooks back."""

    def __init__(self, store: WebhookStore) -> None:
        self._store = store

    async def execute(self, tenant_id: str, webhook_id: str, start: datetime) -> Webhook:
        """The webhook; raises WebhookNotFound, or InvalidRequest for a time that is to come."""

        def check(now: datetime) -> datetime:
            if start > now:
                raise InvalidRequest([("start_time", "must not be in the future: what is to come is delivered by itself")])
            return start

        return await self._store.set_back(tenant_id, webhook_id, check)
