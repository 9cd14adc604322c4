"""Lists users, a page at a time."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.context import Principal
from services.common.pagination import decode_token, encode_token, page_size
from services.identity.domain.ports import Users
from services.identity.domain.user import User


@dataclass(frozen=True, slots=True)
class ListUsers:
    """Use case of IdentityService.ListUsers."""

    users: Users

    async def __call__(self, caller: Principal, size: int, page_token: str) -> tuple[list[User], str]:
        """The users of the caller's tenant by username, and the token of the next page or an empty text.

        Raises:
            InvalidPageToken: the token is not of this list.
        """
        arguments = {"list": "users", "tenant": caller.tenant_id}
        cursor = decode_token(page_token, arguments)
        limit = page_size(size)
        found = await self.users.list(caller.tenant_id, limit + 1, cursor[0] if cursor else None)
        page = found[:limit]
        return page, encode_token(arguments, [page[-1].username]) if len(found) > limit else ""
