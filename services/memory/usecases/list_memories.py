"""Lists memories, a page at a time."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.context import Principal
from services.common.errors import InvalidPageToken
from services.common.ids import is_id
from services.common.pagination import decode_token, encode_token, page_size
from services.memory.domain.memory import Memory
from services.memory.domain.ports import Memories


@dataclass(frozen=True, slots=True)
class ListMemories:
    """Use case of MemoryService.ListMemories."""

    memories: Memories

    async def __call__(self, caller: Principal, owner: str, size: int, page_token: str) -> tuple[list[Memory], str]:
        """The memories of the caller's tenant, newest first, and the token of the next page or an empty text.

        Raises:
            InvalidPageToken: the token is not of this list.
        """
        arguments = {"list": "memories", "tenant": caller.tenant_id, "owner": owner}
        cursor = decode_token(page_token, arguments)
        if cursor is not None and not (len(cursor) == 1 and is_id(cursor[0])):
            raise InvalidPageToken
        limit = page_size(size)
        found = await self.memories.page(caller.tenant_id, owner, limit + 1, cursor[0] if cursor else None)
        page = found[:limit]
        return page, encode_token(arguments, [page[-1].memory_id]) if len(found) > limit else ""
