"""What receivers of webhooks have refused for good: looked at, delivered again, forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.common.errors import InvalidPageToken, InvalidRequest
from services.common.ids import is_id
from services.common.pagination import decode_token, encode_token, page_size
from services.scheduler.domain.webhook import FailedDelivery, delivery_key
from services.scheduler.domain.webhook_ports import WebhookStore
from services.scheduler.usecases.get_webhook import GetWebhook


class FailedDeliveries:
    """ListFailedDeliveries, GetFailedDelivery, ReplayFailedDelivery, ReplayFailedDeliveries and DeleteFailedDelivery.

    Each raises WebhookNotFound, and those for one delivery FailedDeliveryNotFound.
    """

    def __init__(self, store: WebhookStore) -> None:
        self._store = store
        self._webhooks = GetWebhook(store)

    async def list(
        self, tenant_id: str, webhook_id: str, requested: int, page_token: str
    ) -> tuple[Sequence[FailedDelivery], str]:
        """A page and the token of the next one (empty on the last); raises InvalidPageToken."""
        webhook = await self._webhooks.alone(tenant_id, webhook_id)
        arguments = {"tenant": tenant_id, "list": "failed deliveries", "webhook": webhook.uid}
        cursor = decode_token(page_token, arguments)
        after = None
        if cursor is not None:
            after = delivery_key(cursor[0]) if len(cursor) == 1 else None
            if after is None or not is_id(after[0]):
                raise InvalidPageToken
        limit = page_size(requested)
        found = await self._store.list_failed(webhook, after, limit + 1)
        page = found[:limit]
        return page, encode_token(arguments, [page[-1].delivery_id]) if len(found) > limit else ""

    async def get(self, tenant_id: str, webhook_id: str, delivery_id: str) -> FailedDelivery:
        """One with its event."""
        return await self._store.get_failed(await self._webhooks.alone(tenant_id, webhook_id), delivery_id)

    async def replay(self, tenant_id: str, webhook_id: str, delivery_id: str) -> None:
        """Has one delivered again."""
        await self._store.replay_failed(await self._webhooks.alone(tenant_id, webhook_id), delivery_id)

    async def replay_all(self, tenant_id: str, webhook_id: str, start: datetime | None, end: datetime | None) -> tuple[int, int]:
        """Has those that failed within a time delivered again, MOST_REPLAYED at most; gives how many, and how many are left."""
        if start is not None and end is not None and end <= start:
            raise InvalidRequest([("end_time", "must be after start_time")])
        return await self._store.replay_all_failed(await self._webhooks.alone(tenant_id, webhook_id), start, end)

    async def delete(self, tenant_id: str, webhook_id: str, delivery_id: str) -> None:
        """Forgets one."""
        await self._store.delete_failed(await self._webhooks.alone(tenant_id, webhook_id), delivery_id)
