"""Creates a user."""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.common.context import Principal
from services.common.errors import RoleRequired
from services.identity.domain.password import PasswordPolicy
from services.identity.domain.ports import Passwords, Users
from services.identity.domain.user import NewUser, User


@dataclass(frozen=True, slots=True)
class CreateUser:
    """Use case of IdentityService.CreateUser."""

    users: Users
    passwords: Passwords
    policy: PasswordPolicy

    async def __call__(self, caller: Principal, user: NewUser) -> User:
        """The stored user; in the caller's tenant unless an operator names another.

        Raises:
            RoleRequired: only an operator may give the role `operator` or name another tenant.
            PasswordTooWeak: the profile asks for a longer password.
            UserAlreadyExists: the username is taken.
            TenantNotFound: there is no such tenant.
        """
        tenant_id = user.tenant_id or caller.tenant_id
        if "operator" not in caller.roles and (tenant_id != caller.tenant_id or "operator" in user.roles):
            raise RoleRequired("operator")
        self.policy.check(user.password)
        complete = replace(user, tenant_id=tenant_id, roles=user.roles or ("user",))
        return await self.users.create(complete, await self.passwords.hash(user.password))
