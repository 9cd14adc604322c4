"""Errors about webhooks."""

from __future__ import annotations

from services.common.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from services.scheduler.domain.errors import DOMAIN


class WebhookNotFound(NotFound):
    """No such webhook in the caller's tenant."""

    reason = "WEBHOOK_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, webhook_id: str) -> None:
        super().__init__(f"No webhook {webhook_id!r}; list your webhooks with GET /v1/webhooks.", webhook_id=webhook_id)


class WebhookExists(AlreadyExists):
    """The tenant has a webhook with this id."""

    reason = "WEBHOOK_EXISTS"
    domain = DOMAIN

    def __init__(self, webhook_id: str) -> None:
        super().__init__(
            f"There is a webhook {webhook_id!r} already; change it with PATCH /v1/webhooks/{webhook_id}, or choose another id.",
            webhook_id=webhook_id,
        )


class TooManyWebhooks(ResourceExhausted):
    """A tenant has as many webhooks as it may have."""

    reason = "TOO_MANY_WEBHOOKS"
    domain = DOMAIN

    def __init__(self, most: int) -> None:
        super().__init__(
            f"There are {most} webhooks already, which is the most; delete one that is not needed"
            " (DELETE /v1/webhooks/{webhook_id}), or ask the operator to raise GUILDMESH_MAX_WEBHOOKS.",
            most=str(most),
        )


class InvalidWebhookUrl(InvalidArgument):
    """Events cannot be sent to the URL of a webhook."""

    reason = "INVALID_WEBHOOK_URL"
    domain = DOMAIN

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"The URL {url!r} cannot be used: {problem}.", url=url[:200], problem=problem)


class FailedDeliveryNotFound(NotFound):
    """The webhook has no such failed delivery."""

    reason = "FAILED_DELIVERY_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, webhook_id: str, delivery_id: str) -> None:
        super().__init__(
            f"No failed delivery {delivery_id!r} of the webhook {webhook_id!r};"
            f" list them with GET /v1/webhooks/{webhook_id}/failed-deliveries.",
            delivery_id=delivery_id,
        )
