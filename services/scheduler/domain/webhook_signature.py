"""Signatures of deliveries, as Standard Webhooks 1.0 writes them (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping


def signed_headers(event_id: str, timestamp: int, body: bytes, secrets: Iterable[bytes]) -> Mapping[str, str]:
    """The headers that prove who sent a body and when (seconds since 1970); one signature for each secret."""
    text = b"%b.%d.%b" % (event_id.encode(), timestamp, body)
    digests = (hmac.new(secret, text, hashlib.sha256).digest() for secret in secrets)
    signatures = " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
    return {"webhook-id": event_id, "webhook-timestamp": str(timestamp), "webhook-signature": signatures}
