"""Gives one user."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.context import Principal
from services.identity.domain.ports import Users
from services.identity.domain.user import User


@dataclass(frozen=True, slots=True)
class GetUser:
    """Use case of IdentityService.GetUser."""

    users: Users

    async def __call__(self, caller: Principal, username: str) -> User:
        """The user of the caller's tenant. Raises UserNotFound."""
        return await self.users.get(caller.tenant_id, username)
