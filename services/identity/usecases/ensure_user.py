"""Creates a user from the command line, with the tenant if that is missing: how the first operator comes to be."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from services.common.context import Principal
from services.identity.domain.errors import TenantAlreadyExists
from services.identity.domain.ports import Tenants
from services.identity.domain.user import NewUser, User, check_new_user
from services.identity.usecases.create_user import CreateUser

_OPERATOR = Principal(subject="service:identity", tenant_id="", roles=frozenset({"operator"}), kind="service")


@dataclass(frozen=True, slots=True)
class EnsureUser:
    """Use case of `python -m services.identity create-user`."""

    tenants: Tenants
    create_user: CreateUser

    async def __call__(self, user: NewUser) -> User:
        """The new user.

        Raises:
            InvalidRequest: the name, the tenant or a role is not well formed.
            PasswordTooWeak: the profile asks for a longer password.
            UserAlreadyExists: the username is taken.
        """
        check_new_user(user)
        # Before the tenant is made: a refused password must leave nothing behind.
        self.create_user.policy.check(user.password)
        with suppress(TenantAlreadyExists):
            await self.tenants.create(user.tenant_id, user.tenant_id)
        return await self.create_user(_OPERATOR, user)
