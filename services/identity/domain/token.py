"""Tokens and the keys that verify them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

ISSUER = "guildmesh"
AUDIENCE = "guildmesh"
WATCH_AUDIENCE = "guildmesh-watch"
"""audience of tokens that show the events of one task: the gateway takes them there and nowhere else."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token says of its bearer."""

    subject: str
    tenant_id: str
    roles: tuple[str, ...]
    lifetime: timedelta
    task_id: str = ""
    """the only task whose events the bearer may see, and nothing else; empty for a token that stands for the whole subject."""


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token (RFC 6750)."""

    text: str
    expires_in: int
    """seconds."""


@dataclass(frozen=True, slots=True)
class WatchTicket:
    """How a browser comes to the events of one task."""

    ticket: Token
    """for a URL: ends soon."""
    cookie: Token
    """for a cookie that scripts cannot read: lasts as long as the token of who asked for it."""


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
