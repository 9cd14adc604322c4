"""Lists tenants, a page at a time."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.pagination import decode_token, encode_token, page_size
from services.identity.domain.ports import Tenants
from services.identity.domain.user import Tenant


@dataclass(frozen=True, slots=True)
class ListTenants:
    """Use case of IdentityService.ListTenants; the method's policy asks for the role `operator`."""

    tenants: Tenants

    async def __call__(self, size: int, page_token: str) -> tuple[list[Tenant], str]:
        """The tenants by id, and the token of the next page or an empty text.

        Raises:
            InvalidPageToken: the token is not of this list.
        """
        arguments = {"list": "tenants"}
        cursor = decode_token(page_token, arguments)
        limit = page_size(size)
        found = await self.tenants.list(limit + 1, cursor[0] if cursor else None)
        page = found[:limit]
        return page, encode_token(arguments, [page[-1].tenant_id]) if len(found) > limit else ""
