"""Gives the keys that verify our tokens (RFC 7517)."""

from __future__ import annotations

from dataclasses import dataclass

from services.identity.domain.ports import TokenSigner
from services.identity.domain.token import PublicKey


@dataclass(frozen=True, slots=True)
class GetJsonWebKeySet:
    """Use case of IdentityService.GetJsonWebKeySet and of the admin port's `/.well-known/jwks.json`."""

    signer: TokenSigner

    async def __call__(self) -> list[PublicKey]:
        """The signing key first; empty while a shared secret signs."""
        return await self.signer.public_keys()
