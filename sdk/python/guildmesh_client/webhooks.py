"""For receivers of webhooks: whether a request is from guildmesh, by the Standard Webhooks scheme, and which event it brings."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping

from google.protobuf.json_format import Parse
from guildmesh.events.v1.task_event_pb2 import TaskEvent

_PREFIX = "whsec_"
_VERSION = "v1,"
TOLERANCE_SECONDS = 300.0


class InvalidSignature(Exception):
    """The request is not from who has the secret, or it is an old one that somebody sends again; answer it with 401."""


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, tolerance: float = TOLERANCE_SECONDS) -> str:
    """Checks a request, and gives its id, the same in each repeat: do nothing for one that you have dealt with.

    Args:
        secret: of the webhook, as CreateWebhook or RotateWebhookSecret told it.
        headers: of the request, in any case.
        body: exactly as it came; JSON that was read and written again has another signature.
        tolerance: how many seconds the clocks of the two may be apart.

    Raises:
        InvalidSignature: the signature is missing, wrong or too old.
        ValueError: the secret is none.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError('the secret must be as it was told: "whsec_" and base64') from error
    found = {name.lower(): value for name, value in headers.items()}
    try:
        event_id, timestamp, signatures = (found[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    except KeyError as error:
        raise InvalidSignature(f"the request has no header {error.args[0]}") from None
    if not (timestamp.isascii() and timestamp.isdigit()) or abs(time.time() - int(timestamp[:15])) > tolerance:
        raise InvalidSignature("webhook-timestamp is too far from the time of this machine")
    text = b"%b.%b.%b" % (event_id.encode(), timestamp.encode(), body)
    expected = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest())
    # There are two while a secret is being replaced.
    given = [each.removeprefix(_VERSION).encode() for each in signatures.split(" ") if each.startswith(_VERSION)]
    if not any(hmac.compare_digest(expected, each) for each in given):
        raise InvalidSignature("webhook-signature is not one of this body with this secret")
    return event_id


def event_of(body: bytes) -> TaskEvent:
    """The event of a verified request whose `ce-type` begins with "guildmesh.task."; fields newer than this are left out."""
    return Parse(body, TaskEvent(), ignore_unknown_fields=True)
