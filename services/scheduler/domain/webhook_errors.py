"""Errors about webhooks."""

from __future__ import annotations

from services.common.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
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


class WebhookSecretSealed(FailedPrecondition):
    """A secret is sealed with a master key that this process does not have."""

    reason = "WEBHOOK_SECRET_SEALED"
    domain = DOMAIN

    def __init__(self, webhook_id: str) -> None:
        super().__init__(
            f"The secret of the webhook {webhook_id!r} is sealed with a master key that the scheduler does not have; have the"
            " operator set GUILDMESH_EVENT_MASTER_KEY, or the key of before as GUILDMESH_EVENT_MASTER_KEY_BEFORE. If it is lost,"
            f" replace the secret with no overlap (POST /v1/webhooks/{webhook_id}:rotateSecret, overlap 0s).",
            webhook_id=webhook_id,
        )


class WebhookSecretsSealed(Unavailable):
    """Events of webhooks wait for a master key; what the /ready of a webhook process says."""

    reason = "WEBHOOK_SECRETS_SEALED"
    domain = DOMAIN

    def __init__(self, number: int) -> None:
        super().__init__(
            f"Webhooks whose secrets are sealed with a master key that this process does not have: {number}. Their events wait,"
            " and nothing is lost. Set GUILDMESH_EVENT_MASTER_KEY, or the key of before as GUILDMESH_EVENT_MASTER_KEY_BEFORE,"
            " for every scheduler and webhook process.",
            webhooks=str(number),
        )
