"""What identity's use cases need from the outside."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from services.identity.domain.token import Grant, PublicKey, StoredKey, Token
from services.identity.domain.user import Login, NewUser, Tenant, User


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome of checking a password."""

    valid: bool
    new_hash: str | None = None
    """a hash to store in place of the old one, when the old one was made with weaker parameters."""


class Passwords(Protocol):
    """Hashes and checks passwords; must not block the event loop."""

    async def hash(self, password: str) -> str:
        """A salted hash of `password`, with its parameters."""

    async def verify(self, password: str, password_hash: str | None) -> Verification:
        """Checks `password`; None as the hash takes as long as a real one and is never valid."""


class Users(Protocol):
    """Users of one tenant; every method sees that tenant only."""

    async def create(self, user: NewUser, password_hash: str) -> User:
        """Stores a user in `user.tenant_id`. Raises UserAlreadyExists, TenantNotFound."""

    async def get(self, tenant_id: str, username: str) -> User:
        """Raises UserNotFound."""

    async def erase(self, tenant_id: str, username: str) -> User:
        """Takes password, email and the right to log in away, for good; raises UserNotFound. A repeat changes nothing."""

    async def list(self, tenant_id: str, limit: int, after: str | None) -> list[User]:
        """At most `limit` users, by username in byte order, those after the username `after`."""


class Logins(Protocol):
    """The users of all tenants, for a login only."""

    async def find(self, username: str) -> Login | None:
        """The active user with exactly this name, or None."""

    async def replace_hash(self, login: Login, password_hash: str) -> None:
        """Stores a new hash, unless the one in `login` was changed meanwhile."""


class Erasures(Protocol):
    """The users of all tenants whose keys are still to be destroyed."""

    async def open(self, limit: int) -> list[User]:
        """At most `limit` of them, those who were erased first before the others."""

    async def done(self, user: User, time: datetime) -> User:
        """Notes when a user's keys were destroyed; the first time stays."""


class EventKeys(Protocol):
    """The keys of users, which the scheduler has."""

    async def erase(self, tenant_id: str, username: str) -> datetime:
        """Has the keys of a user destroyed; gives when that was done. A repeat does no harm.

        Raises:
            DomainError: it is not known whether they are; ask again.
        """


class Tenants(Protocol):
    """All tenants of the mesh."""

    async def create(self, tenant_id: str, display_name: str) -> Tenant:
        """Raises TenantAlreadyExists."""

    async def list(self, limit: int, after: str | None) -> list[Tenant]:
        """At most `limit` tenants, by id in byte order, those after the id `after`."""


class SigningKeyStore(Protocol):
    """The signing keys of the mesh, shared by all replicas of identity."""

    async def load(self) -> list[StoredKey]:
        """All keys, the one that was or will be made active last first."""

    async def add(self, key: StoredKey, unless_younger_than: timedelta | None) -> bool:
        """Stores a key that becomes active in minus `key.age`.

        MUST NOT store it, and answer False, when a key younger than `unless_younger_than` exists: of several replicas that
        rotate at once, one wins.
        """

    async def forget(self, superseded_for: timedelta) -> int:
        """Deletes the keys whose successor has been active for longer than that; answers how many."""


class TokenSigner(Protocol):
    """Signs tokens and tells how they are verified."""

    async def sign(self, grant: Grant) -> Token:
        """A token that begins now."""

    async def public_keys(self) -> list[PublicKey]:
        """The signing key first, then those still or soon in use; empty when a shared secret signs."""
