"""Erases a user: here at once, and then the keys of the user's events, which the scheduler has."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from services.common.context import Principal
from services.common.errors import DomainError, RoleRequired
from services.identity.domain.ports import Users
from services.identity.domain.user import User
from services.identity.usecases.destroy_keys import DestroyKeys

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EraseUser:
    """Use case of IdentityService.EraseUser."""

    users: Users
    destroy_keys: DestroyKeys

    async def __call__(self, caller: Principal, tenant_id: str, username: str) -> User:
        """The erased user; of the caller's tenant unless an operator names another.

        It is erased when this returns. With no `keys_destroy_time` the scheduler could not be told; that goes on by itself.

        Raises:
            RoleRequired: only an operator may erase an operator, or a user of another tenant.
            UserNotFound.
        """
        tenant_id = tenant_id or caller.tenant_id
        operator = "operator" in caller.roles
        if not operator and tenant_id != caller.tenant_id:
            raise RoleRequired("operator")
        found = await self.users.get(tenant_id, username)
        if not operator and "operator" in found.roles:
            raise RoleRequired("operator")
        user = await self.users.erase(tenant_id, username)
        log.info("user_erased", tenant=tenant_id, user=username, erased_by=caller.subject)
        if user.keys_destroy_time is not None:
            return user
        try:
            return await self.destroy_keys.of(user)
        except DomainError as error:
            log.warning("keys_not_destroyed", tenant=tenant_id, user=username, error=error.message)
            return user
