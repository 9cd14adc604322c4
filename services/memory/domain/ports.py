"""What memory's use cases need from the outside. Every method sees one tenant only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.common.context import Principal
from services.memory.domain.conversation import Conversation, Message, NewMessage
from services.memory.domain.memory import Embedding, Match, Memory, NewMemory


class Embedder(Protocol):
    """Turns texts into directions; near meanings give near directions."""

    async def embed(self, text: str) -> Embedding:
        """The direction of a text; the same text always gives the same. MUST NOT block the event loop."""


class Conversations(Protocol):
    """Conversations of the owner: a user of a tenant."""

    async def create(self, owner: Principal, title: str) -> Conversation:
        """An empty conversation."""

    async def get(self, owner: Principal, conversation_id: str) -> Conversation:
        """Raises ConversationNotFound."""

    async def page(self, owner: Principal, limit: int, before: str | None) -> list[Conversation]:
        """At most `limit` conversations, newest first, those older than the id `before`."""

    async def start(self, owner: Principal, title: str, messages: Sequence[NewMessage]) -> tuple[str, list[Message]]:
        """A new conversation with messages: its id and the messages, all or none."""

    async def append(self, owner: Principal, conversation_id: str, messages: Sequence[NewMessage]) -> list[Message]:
        """Adds messages, all or none; concurrent appends never share or skip a number. Raises ConversationNotFound."""

    async def page_of_messages(self, owner: Principal, conversation_id: str, limit: int, before: int | None) -> list[Message]:
        """At most `limit` messages, newest first, those with a number below `before`. Raises ConversationNotFound."""


class Memories(Protocol):
    """Memories of a tenant."""

    async def find_request(self, tenant_id: str, memory: NewMemory) -> Memory | None:
        """The memory that an earlier request with the same id made, or None. Raises RequestIdReused."""

    async def create(self, tenant_id: str, memory: NewMemory, embedding: Embedding) -> Memory:
        """Stores a memory, or gives the one that a request with the same id made meanwhile. Raises RequestIdReused."""

    async def get(self, tenant_id: str, memory_id: str) -> Memory:
        """Raises MemoryNotFound."""

    async def page(self, tenant_id: str, owner: str, limit: int, before: str | None) -> list[Memory]:
        """At most `limit` memories of `owner` (empty for any), newest first, those older than the id `before`."""

    async def delete(self, tenant_id: str, memory_id: str) -> None:
        """Raises MemoryNotFound."""

    async def search(self, tenant_id: str, owner: str, embedding: Embedding, limit: int) -> list[Match]:
        """The nearest memories of `owner` (empty for any), best first; exactly `limit` when so many exist."""
