"""Lists agents."""

from __future__ import annotations

from collections.abc import Sequence

from services.agent.domain.agent import Agent
from services.agent.domain.ports import AgentRepository
from services.common import pagination


class ListAgents:
    """Reads a page of a tenant's agents, by id (AIP-158)."""

    def __init__(self, agents: AgentRepository) -> None:
        self._agents = agents

    async def __call__(self, tenant_id: str, page_size: int, page_token: str) -> tuple[Sequence[Agent], str]:
        """The page and the token of the next one, empty on the last; raises InvalidPageToken."""
        arguments = {"list": "agents", "tenant": tenant_id}
        cursor = pagination.decode_token(page_token, arguments)
        size = pagination.page_size(page_size)
        found = await self._agents.list(tenant_id, cursor[0] if cursor else "", size + 1)
        page = found[:size]
        more = len(found) > size
        return page, pagination.encode_token(arguments, [page[-1].agent_id]) if more else ""
