"""Finds memories by meaning."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.context import Principal
from services.memory.domain.memory import DEFAULT_SEARCH_LIMIT, Match
from services.memory.domain.ports import Embedder, Memories


@dataclass(frozen=True, slots=True)
class SearchMemories:
    """Use case of MemoryService.SearchMemories."""

    memories: Memories
    embedder: Embedder

    async def __call__(self, caller: Principal, query: str, owner: str, limit: int) -> list[Match]:
        """The memories of the caller's tenant nearest to `query`, best first; a limit of 0 means 10."""
        embedding = await self.embedder.embed(query)
        return await self.memories.search(caller.tenant_id, owner, embedding, limit or DEFAULT_SEARCH_LIMIT)
