"""The claims of our tokens (RFC 7519), the same under every signature."""

from __future__ import annotations

import time

from services.common.ids import new_id
from services.identity.domain.token import AUDIENCE, ISSUER, Grant


def claims_of(grant: Grant) -> dict[str, object]:
    """The payload of a token that begins now; `tenant` and `roles` are ours, the rest is registered."""
    now = int(time.time())
    return {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": grant.subject,
        "tenant": grant.tenant_id,
        "roles": list(grant.roles),
        "iat": now,
        "exp": now + int(grant.lifetime.total_seconds()),
        "jti": new_id(),
    }
