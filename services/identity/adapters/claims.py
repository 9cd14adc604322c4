"""The claims of our tokens (RFC 7519), the same under every signature."""

from __future__ import annotations

import time

from services.common.ids import new_id
from services.identity.domain.token import AUDIENCE, ISSUER, WATCH_AUDIENCE, Grant


def claims_of(grant: Grant) -> dict[str, object]:
    """The payload of a token that begins now; `tenant`, `roles` and `task` are ours, the rest is registered."""
    now = int(time.time())
    restricted = {"task": grant.task_id} if grant.task_id else {}
    return {
        "iss": ISSUER,
        "aud": WATCH_AUDIENCE if restricted else AUDIENCE,
        "sub": grant.subject,
        "tenant": grant.tenant_id,
        "roles": list(grant.roles),
        "iat": now,
        "exp": now + int(grant.lifetime.total_seconds()),
        "jti": new_id(),
        **restricted,
    }
