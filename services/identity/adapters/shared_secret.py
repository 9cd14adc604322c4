"""Tokens signed with a shared secret (HS256 and its longer kin), which only identity and the gateway know."""

from __future__ import annotations

import jwt

from services.identity.adapters.claims import claims_of
from services.identity.domain.token import Grant, PublicKey, Token

KEY_ID = "shared"
"""`kid` of such tokens: there is one secret."""

# RFC 7518, 3.2: the key must be as long as the hash or longer.
MIN_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}


class SharedSecretSigner:
    """Implements the port TokenSigner with JWT_SECRET_KEY.

    Raises:
        ValueError: the algorithm is not HMAC, or the secret is too short for it.
    """

    def __init__(self, secret: str, algorithm: str) -> None:
        if algorithm not in MIN_SECRET_BYTES:
            raise ValueError(
                f"JWT_ALGORITHM {algorithm!r} cannot use JWT_SECRET_KEY; choose {', '.join(MIN_SECRET_BYTES)}, or unset"
                " JWT_SECRET_KEY for ES256 with keys of our own."
            )
        if len(secret.encode()) < MIN_SECRET_BYTES[algorithm]:
            raise ValueError(
                f"JWT_SECRET_KEY needs at least {MIN_SECRET_BYTES[algorithm]} bytes for {algorithm}; make one with"
                " 'openssl rand -base64 48'."
            )
        self._secret = secret
        self._algorithm = algorithm

    async def sign(self, grant: Grant) -> Token:
        """A token that begins now."""
        text = jwt.encode(claims_of(grant), self._secret, algorithm=self._algorithm, headers={"kid": KEY_ID})
        return Token(text, int(grant.lifetime.total_seconds()))

    async def public_keys(self) -> list[PublicKey]:
        """None: a shared secret is not published."""
        return []
