"""Between the messages of WebhookService and the domain."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC

from guildmesh.scheduler.v1 import webhook_pb2 as pb
from guildmesh.scheduler.v1 import webhook_service_pb2 as service_pb

from services.common.errors import InvalidRequest
from services.scheduler.domain import webhook as domain

_CHANGEABLE = ("url", "filter", "description")


def new_webhook(request: service_pb.CreateWebhookRequest, tenant_id: str, subject: str) -> domain.Webhook:
    """The webhook of CreateWebhook, with a new secret; raises InvalidRequest."""
    message = request.webhook
    if request.webhook_id and message.webhook_id not in ("", request.webhook_id):
        raise InvalidRequest([("webhook.webhook_id", "must be webhook_id, or empty")])
    if not message.url:
        raise InvalidRequest([("webhook.url", "must say where the events go")])
    return domain.Webhook(
        tenant_id=tenant_id,
        webhook_id=request.webhook_id or message.webhook_id,
        url=message.url,
        filter=message.filter,
        description=message.description,
        created_by=subject,
        secret=domain.new_secret(),
    )


def changes(request: service_pb.UpdateWebhookRequest) -> Mapping[str, str]:
    """What UpdateWebhook changes, by attributes of the domain's webhook; raises InvalidRequest."""
    message = request.webhook
    if not message.webhook_id:
        raise InvalidRequest([("webhook.webhook_id", "must name the webhook to change")])
    paths = list(request.update_mask.paths)
    if paths == ["*"]:
        paths = list(_CHANGEABLE)
    elif not paths:
        paths = [name for name in _CHANGEABLE if getattr(message, name)]
        if not paths:
            raise InvalidRequest([("update_mask", f"must name what to change: one or more of {', '.join(_CHANGEABLE)}")])
    unknown = [path for path in paths if path not in _CHANGEABLE]
    if unknown:
        raise InvalidRequest([("update_mask", f"{unknown[0]!r} cannot be changed; what can is {', '.join(_CHANGEABLE)}")])
    if "url" in paths and not message.url:
        raise InvalidRequest([("webhook.url", "must say where the events go; to stop them, pause or delete the webhook")])
    return {path: getattr(message, path) for path in paths}


def webhook_message(
    webhook: domain.Webhook, counts: domain.WebhookCounts | None = None, *, with_secret: bool = False
) -> pb.Webhook:
    """The webhook as its tenant sees it; with its secret only where that is new."""
    message = pb.Webhook(
        webhook_id=webhook.webhook_id,
        tenant_id=webhook.tenant_id,
        url=webhook.url,
        filter=webhook.filter,
        description=webhook.description,
        state=pb.WebhookState.ValueType(webhook.state),
        secret=domain.secret_text(webhook.secret) if with_secret and webhook.secret is not None else "",
        last_error=webhook.last_error,
        created_by=webhook.created_by,
        etag=webhook.etag,
    )
    if counts is not None:
        message.waiting_count, message.failed_count, message.behind = counts.waiting, counts.failed, counts.behind
    for name in ("previous_secret_expire_time", "failing_since", "missed_time", "create_time", "update_time"):
        told = getattr(webhook, name)
        if told is not None and not (name == "failing_since" and webhook.paused):
            getattr(message, name).FromDatetime(told.astimezone(UTC))
    return message


def failed_delivery_message(webhook_id: str, delivery: domain.FailedDelivery) -> pb.FailedDelivery:
    """A failed delivery, with its event if that was asked for."""
    message = pb.FailedDelivery(
        delivery_id=delivery.delivery_id,
        webhook_id=webhook_id,
        task_id=delivery.task_id,
        event_number=delivery.number,
        event_type=delivery.event_type,
        attempts=delivery.attempts,
        status_code=delivery.status_code,
        error=delivery.error,
    )
    message.fail_time.FromDatetime(delivery.fail_time.astimezone(UTC))
    if delivery.event is not None:
        message.event.MergeFromString(delivery.event)
    return message


def tested_message(delivered: domain.Delivered) -> service_pb.TestWebhookResponse:
    """What came of a ping."""
    message = service_pb.TestWebhookResponse(delivered=delivered.taken, status_code=delivered.status_code, error=delivered.error)
    message.duration.FromMilliseconds(round(delivered.seconds * 1000))
    return message
