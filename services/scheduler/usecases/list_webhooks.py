"""ListWebhooks: a page of the tenant's webhooks (AIP-158)."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.errors import InvalidPageToken
from services.common.pagination import decode_token, encode_token, page_size
from services.scheduler.domain.webhook import Webhook
from services.scheduler.domain.webhook_ports import WebhookStore


class ListWebhooks:
    """Lists webhooks by their ids."""

    def __init__(self, store: WebhookStore) -> None:
        self._store = store

    async def execute(self, tenant_id: str, requested: int, page_token: str) -> tuple[Sequence[Webhook], str]:
        """A page and the token of the next one (empty on the last); raises InvalidPageToken."""
        arguments = {"tenant": tenant_id, "list": "webhooks"}
        cursor = decode_token(page_token, arguments)
        if cursor is not None and len(cursor) != 1:
            raise InvalidPageToken
        limit = page_size(requested)
        found = await self._store.list(tenant_id, cursor[0] if cursor else "", limit + 1)
        page = found[:limit]
        return page, encode_token(arguments, [page[-1].webhook_id]) if len(found) > limit else ""
