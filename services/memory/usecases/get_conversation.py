"""Gives a conversation."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.context import Principal
from services.memory.domain.conversation import Conversation
from services.memory.domain.ports import Conversations


@dataclass(frozen=True, slots=True)
class GetConversation:
    """Use case of MemoryService.GetConversation."""

    conversations: Conversations

    async def __call__(self, caller: Principal, conversation_id: str) -> Conversation:
        """A conversation of the caller. Raises ConversationNotFound."""
        return await self.conversations.get(caller, conversation_id)
