"""Adds messages to a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.common.context import Principal
from services.memory.domain.conversation import NEW_CONVERSATION, Message, NewMessage
from services.memory.domain.ports import Conversations


@dataclass(frozen=True, slots=True)
class AppendMessages:
    """Use case of MemoryService.AppendMessages."""

    conversations: Conversations

    async def __call__(
        self, caller: Principal, conversation_id: str, title: str, messages: Sequence[NewMessage]
    ) -> tuple[str, list[Message]]:
        """The conversation's id and the messages as stored, all or none; "-" starts a conversation with that title.

        Raises:
            ConversationNotFound: the caller has no such conversation.
        """
        if conversation_id == NEW_CONVERSATION:
            return await self.conversations.start(caller, title, messages)
        return conversation_id, await self.conversations.append(caller, conversation_id, messages)
