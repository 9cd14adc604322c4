"""Tokens and the keys that verify them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

ISSUER = "guildmesh"
AUDIENCE = "guildmesh"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token says of its bearer."""

    subject: str
    tenant_id: str
    roles: tuple[str, ...]
    lifetime: timedelta


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token (RFC 6750)."""

    text: str
    expires_in: int
    """seconds."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An elliptic-curve public key on P-256, for ES256 (RFC 7518, 6.2)."""

    key_id: str
    x: str
    """x coordinate, base64url without padding."""
    y: str
    """y coordinate, base64url without padding."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A signing key as it is stored."""

    public: PublicKey
    sealed_private_key: bytes
    """the private key, encrypted with the master key."""
    age: timedelta
    """time since it became the signing key, by the database's clock; negative until then."""
