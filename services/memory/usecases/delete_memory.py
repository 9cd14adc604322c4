"""Forgets a memory."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.context import Principal
from services.memory.domain.ports import Memories


@dataclass(frozen=True, slots=True)
class DeleteMemory:
    """Use case of MemoryService.DeleteMemory."""

    memories: Memories

    async def __call__(self, caller: Principal, memory_id: str) -> None:
        """Deletes a memory of the caller's tenant. Raises MemoryNotFound."""
        await self.memories.delete(caller.tenant_id, memory_id)
