"""Starts a conversation."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.context import Principal
from services.memory.domain.conversation import Conversation
from services.memory.domain.ports import Conversations


@dataclass(frozen=True, slots=True)
class CreateConversation:
    """Use case of MemoryService.CreateConversation."""

    conversations: Conversations

    async def __call__(self, caller: Principal, title: str) -> Conversation:
        """An empty conversation of the caller."""
        return await self.conversations.create(caller, title)
