"""Remembers a text."""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.common.context import Principal
from services.memory.domain.memory import Memory, NewMemory
from services.memory.domain.ports import Embedder, Memories


@dataclass(frozen=True, slots=True)
class CreateMemory:
    """Use case of MemoryService.CreateMemory."""

    memories: Memories
    embedder: Embedder

    async def __call__(self, caller: Principal, memory: NewMemory) -> Memory:
        """The stored memory; its owner is the caller's username when none is given.

        Raises:
            RequestIdReused: the request id came before with another memory.
        """
        memory = replace(memory, owner=memory.owner or caller.subject)
        if memory.request_id:
            # A repeat is answered without paying for the model again.
            earlier = await self.memories.find_request(caller.tenant_id, memory)
            if earlier is not None:
                return earlier
        return await self.memories.create(caller.tenant_id, memory, await self.embedder.embed(memory.content))
