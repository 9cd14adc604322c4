"""Users and tenants (requirement row 16)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from services.common.errors import InvalidRequest

ROLES = ("user", "admin", "operator")
"""`user` is the default, `admin` keeps a tenant's users and agents, `operator` the whole mesh."""

_USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_TENANT_ID = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class User:
    """A person or a program that may ask for a token."""

    username: str
    """login name and `sub` of the token; unique in the mesh, whatever the case of its letters."""
    tenant_id: str
    email: str
    """address, or empty."""
    roles: tuple[str, ...]
    active: bool
    """inactive users cannot log in."""
    create_time: datetime
    erase_time: datetime | None = None
    """when it was erased; what is left then is the name, so that nobody else gets it."""
    keys_destroy_time: datetime | None = None
    """when the scheduler had destroyed the keys of its events."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """Owner of users, tasks, agents, tools and memories; nothing of one is visible to another."""

    tenant_id: str
    display_name: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class NewUser:
    """What creates a user."""

    username: str
    password: str
    email: str = ""
    roles: tuple[str, ...] = ()
    """empty means `user`."""
    tenant_id: str = ""
    """empty means the caller's."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user and the hash that its password is checked against."""

    user: User
    password_hash: str


def check_new_user(user: NewUser) -> None:
    """Checks what the contract's rules check on the wire, for users made on the command line.

    Raises:
        InvalidRequest: names each field that is wrong.
    """
    wrong = []
    if not _USERNAME.fullmatch(user.username):
        wrong.append(
            ("username", "must be 1 to 64 letters, digits, dots, dashes and underscores, starting with a letter or digit")
        )
    if not 1 <= len(user.password) <= 1024:
        wrong.append(("password", "must be 1 to 1,024 characters"))
    if unknown := [role for role in user.roles if role not in ROLES]:
        wrong.append(("roles", f"{', '.join(unknown)!r} is none of {', '.join(ROLES)}"))
    if not _TENANT_ID.fullmatch(user.tenant_id):
        wrong.append(("tenant_id", "must be 1 to 63 lower-case letters, digits and dashes, starting with a letter"))
    if wrong:
        raise InvalidRequest(wrong)
