"""Errors of identity, each with its reason in guildmesh/identity/v1/error_reason.proto."""

from __future__ import annotations

from services.common.errors import AlreadyExists, InvalidArgument, NotFound, Unauthenticated

DOMAIN = "identity.guildmesh.dev"


class InvalidCredentials(Unauthenticated):
    """The username or the password is wrong; which of them is not told."""

    reason = "INVALID_CREDENTIALS"
    domain = DOMAIN

    def __init__(self) -> None:
        super().__init__("The username or the password is wrong.")


class UserAlreadyExists(AlreadyExists):
    """The username is taken, perhaps in another tenant."""

    reason = "USER_ALREADY_EXISTS"
    domain = DOMAIN

    def __init__(self, username: str) -> None:
        super().__init__(f"The username {username!r} is taken; choose another.", username=username)


class UserNotFound(NotFound):
    """The caller's tenant has no such user."""

    reason = "USER_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, username: str) -> None:
        super().__init__(f"No user {username!r}; list the users with GET /v1/users.", username=username)


class TenantAlreadyExists(AlreadyExists):
    """The tenant id is taken."""

    reason = "TENANT_ALREADY_EXISTS"
    domain = DOMAIN

    def __init__(self, tenant_id: str) -> None:
        super().__init__(f"The tenant {tenant_id!r} exists already.", tenant_id=tenant_id)


class TenantNotFound(NotFound):
    """There is no such tenant."""

    reason = "TENANT_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, tenant_id: str) -> None:
        super().__init__(f"No tenant {tenant_id!r}; create it with POST /v1/tenants.", tenant_id=tenant_id)


class PasswordTooWeak(InvalidArgument):
    """The password breaks the rules of the production profile."""

    reason = "PASSWORD_TOO_WEAK"
    domain = DOMAIN

    def __init__(self, min_length: int) -> None:
        super().__init__(f"The password needs at least {min_length} characters.", min_length=str(min_length))
        self.violations = (("password", self.message),)
