"""Gives a memory."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.context import Principal
from services.memory.domain.memory import Memory
from services.memory.domain.ports import Memories


@dataclass(frozen=True, slots=True)
class GetMemory:
    """Use case of MemoryService.GetMemory."""

    memories: Memories

    async def __call__(self, caller: Principal, memory_id: str) -> Memory:
        """A memory of the caller's tenant. Raises MemoryNotFound."""
        return await self.memories.get(caller.tenant_id, memory_id)
