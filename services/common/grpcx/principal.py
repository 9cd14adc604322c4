"""Principals on the wire: the gateway's verified claims, and what services hand on to each other."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from functools import lru_cache

from services.common.context import Principal

# The gateway writes the verified claims of a token here; it strips the header from what clients send.
CLAIMS_KEY = "x-guildmesh-claims"
# Services hand the principal on in this header; only service certificates may send it.
PRINCIPAL_KEY = "x-guildmesh-principal"
REQUEST_ID_KEY = "x-request-id"
TRACEPARENT_KEY = "traceparent"


def encode_principal(principal: Principal) -> str:
    """The header value of a principal."""
    body = {
        "sub": principal.subject,
        "tenant": principal.tenant_id,
        "roles": sorted(principal.roles),
        "kind": principal.kind,
    }
    return base64.urlsafe_b64encode(json.dumps(body).encode()).decode()


def decode_principal(value: str) -> Principal | None:
    """The principal in a header value, or None when it is not one."""
    body = _decode(value)
    if body is None:
        return None
    subject, tenant = body.get("sub"), body.get("tenant")
    if not isinstance(subject, str) or not isinstance(tenant, str):
        return None
    kind = body.get("kind", "user")
    return Principal(subject, tenant, _roles(body.get("roles")), kind if kind in ("user", "service") else "user")


@lru_cache(maxsize=1024)
def claims_principal(value: str) -> Principal | None:
    """The user in the claims that the gateway verified, or None when they lack a subject or a tenant."""
    body = _decode(value)
    if body is None:
        return None
    subject, tenant = body.get("sub"), body.get("tenant")
    if not isinstance(subject, str) or not isinstance(tenant, str) or not subject or not tenant:
        return None
    watches = body.get("task", "")
    if not isinstance(watches, str):
        return None
    return Principal(subject, tenant, _roles(body.get("roles")), "user", watches)


# One token comes with call after call.
@lru_cache(maxsize=1024)
def claims_expiry(value: str) -> float | None:
    """When the token ends whose claims the gateway verified, in seconds since 1970 UTC; None when they do not say."""
    body = _decode(value)
    expiry = None if body is None else body.get("exp")
    if isinstance(expiry, bool) or not isinstance(expiry, int | float) or not math.isfinite(expiry):
        return None
    return float(expiry)


def _decode(value: str) -> dict[str, object] | None:
    try:
        body = json.loads(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _roles(value: object) -> frozenset[str]:
    items: Iterable[object] = value if isinstance(value, list) else ()
    return frozenset(item for item in items if isinstance(item, str))
