"""An event as receivers of webhooks get it: CloudEvents 1.0, HTTP binding, binary mode, with the event as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from urllib.parse import quote

from google.protobuf.json_format import MessageToDict
from guildmesh.events.v1.task_event_pb2 import TaskEvent

from services.common.ids import new_id
from services.scheduler.domain.webhook import Outgoing, Webhook
from services.scheduler.relay.headers import headers_of

PING = "guildmesh.webhook.ping.v1"
_CONTENT_TYPE = "application/json"
# What the HTTP binding does not percent-encode.
_AS_IT_IS = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


def outgoing_event(value: bytes, traceparent: str) -> Outgoing:
    """The request of an event, from its bytes and its trace context on the topic."""
    event = TaskEvent.FromString(value)
    headers = {name.replace("_", "-"): quote(header, safe=_AS_IT_IS) for name, header in headers_of(event, traceparent)}
    event_id = headers["ce-id"]
    body = _json(MessageToDict(event, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
    return Outgoing(event_id, body, headers | _common(event_id), event.event_time.ToNanoseconds() / 1e9)


def ping(webhook: Webhook) -> Outgoing:
    """A request that says nothing but that the webhook is there."""
    event_id = f"ping/{new_id()}"
    now = datetime.now(UTC)
    time = now.isoformat().replace("+00:00", "Z")
    headers = {
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-type": PING,
        "ce-source": "/guildmesh/scheduler",
        "ce-subject": webhook.webhook_id,
        "ce-time": time,
        "ce-tenantid": quote(webhook.tenant_id, safe=_AS_IT_IS),
    }
    body = _json({"type": PING, "webhook_id": webhook.webhook_id, "tenant_id": webhook.tenant_id, "event_time": time})
    return Outgoing(event_id, body, headers | _common(event_id), now.timestamp())


def _common(event_id: str) -> dict[str, str]:
    return {"content-type": _CONTENT_TYPE, "idempotency-key": event_id, "user-agent": "guildmesh-webhooks/1"}


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
