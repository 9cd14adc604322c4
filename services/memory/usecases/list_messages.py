"""Lists the messages of a conversation, a page at a time."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.context import Principal
from services.common.errors import InvalidPageToken
from services.common.pagination import decode_token, encode_token, page_size
from services.memory.domain.conversation import Message
from services.memory.domain.ports import Conversations

_MAX_NUMBER = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ListMessages:
    """Use case of MemoryService.ListMessages."""

    conversations: Conversations

    async def __call__(self, caller: Principal, conversation_id: str, size: int, page_token: str) -> tuple[list[Message], str]:
        """The messages, newest first, and the token of the next page or an empty text.

        Raises:
            ConversationNotFound: the caller has no such conversation.
            InvalidPageToken: the token is not of this list.
        """
        arguments = {"list": "messages", "tenant": caller.tenant_id, "conversation": conversation_id}
        before = _number(decode_token(page_token, arguments))
        limit = page_size(size)
        found = await self.conversations.page_of_messages(caller, conversation_id, limit + 1, before)
        page = found[:limit]
        return page, encode_token(arguments, [str(page[-1].number)]) if len(found) > limit else ""


def _number(cursor: list[str] | None) -> int | None:
    if cursor is None:
        return None
    if len(cursor) != 1 or not cursor[0].isascii() or not cursor[0].isdigit() or int(cursor[0][:10]) > _MAX_NUMBER:
        raise InvalidPageToken
    return int(cursor[0][:10])
