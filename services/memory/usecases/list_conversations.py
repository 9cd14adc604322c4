"""Lists conversations, a page at a time."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.context import Principal
from services.common.errors import InvalidPageToken
from services.common.ids import is_id
from services.common.pagination import decode_token, encode_token, page_size
from services.memory.domain.conversation import Conversation
from services.memory.domain.ports import Conversations


@dataclass(frozen=True, slots=True)
class ListConversations:
    """Use case of MemoryService.ListConversations."""

    conversations: Conversations

    async def __call__(self, caller: Principal, size: int, page_token: str) -> tuple[list[Conversation], str]:
        """The caller's conversations, newest first, and the token of the next page or an empty text.

        Raises:
            InvalidPageToken: the token is not of this list.
        """
        arguments = {"list": "conversations", "tenant": caller.tenant_id, "username": caller.subject}
        cursor = decode_token(page_token, arguments)
        if cursor is not None and not (len(cursor) == 1 and is_id(cursor[0])):
            raise InvalidPageToken
        limit = page_size(size)
        found = await self.conversations.page(caller, limit + 1, cursor[0] if cursor else None)
        page = found[:limit]
        return page, encode_token(arguments, [page[-1].conversation_id]) if len(found) > limit else ""
