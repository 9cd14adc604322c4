"""What the use cases need of webhooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from services.scheduler.domain.webhook import Delivered, FailedDelivery, Outgoing, Webhook, WebhookCounts


class WebhookStore(Protocol):
    """Webhooks of one tenant, under its row security."""

    async def create(self, webhook: Webhook) -> Webhook:
        """Keeps a new webhook, which delivers from the database's time on.

        Raises:
            WebhookExists: the tenant has one with this id.
            TooManyWebhooks: the tenant has as many as it may have.
        """

    async def get(self, tenant_id: str, webhook_id: str) -> Webhook | None:
        """The webhook, or None."""

    async def counts(self, webhook: Webhook) -> WebhookCounts:
        """What waits for it."""

    async def list(self, tenant_id: str, after: str, limit: int) -> Sequence[Webhook]:
        """At most `limit` webhooks whose ids come after `after`, in their order."""

    async def change(self, tenant_id: str, webhook_id: str, change: Callable[[Webhook, datetime], None]) -> Webhook:
        """Applies a change, which is given the database's time, while nobody else changes the webhook; what it raises is raised.

        Raises:
            WebhookNotFound: the tenant has no such webhook.
        """

    async def delete(self, tenant_id: str, webhook_id: str, etag: str) -> None:
        """Deletes it and what waits for it; raises WebhookNotFound, or EtagMismatch unless the etag is empty or its own."""

    async def set_back(self, tenant_id: str, webhook_id: str, check: Callable[[datetime], datetime]) -> Webhook:
        """Has it deliver from the time on that `check` gives for the database's; raises WebhookNotFound, and what it raises."""

    async def list_failed(self, webhook: Webhook, after: tuple[str, int] | None, limit: int) -> Sequence[FailedDelivery]:
        """At most `limit` failed deliveries behind a task id and number, in their order, without their events."""

    async def get_failed(self, webhook: Webhook, delivery_id: str) -> FailedDelivery:
        """A failed delivery with its event; raises FailedDeliveryNotFound."""

    async def replay_failed(self, webhook: Webhook, delivery_id: str) -> None:
        """Has a failed delivery delivered again; raises FailedDeliveryNotFound."""

    async def replay_all_failed(self, webhook: Webhook, start: datetime | None, end: datetime | None) -> tuple[int, int]:
        """Has up to MOST_REPLAYED that failed within a time delivered again; gives how many, and how many are left."""

    async def delete_failed(self, webhook: Webhook, delivery_id: str) -> None:
        """Forgets a failed delivery; raises FailedDeliveryNotFound."""


class EventSender(Protocol):
    """Sends events to receivers."""

    async def send(self, url: str, secrets: Sequence[bytes], outgoing: Outgoing) -> Delivered:
        """Tries once; what goes wrong is in what it gives."""
