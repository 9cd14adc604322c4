"""Gives an agent."""

from __future__ import annotations

from services.agent.domain.agent import Agent
from services.agent.domain.errors import AgentNotFound
from services.agent.domain.ports import AgentRepository


class GetAgent:
    """Reads an agent of a tenant."""

    def __init__(self, agents: AgentRepository) -> None:
        self._agents = agents

    async def __call__(self, tenant_id: str, agent_id: str) -> Agent:
        """The agent; raises AgentNotFound when the tenant has none of this id."""
        agent = await self._agents.get(tenant_id, agent_id)
        if agent is None:
            raise AgentNotFound(agent_id)
        return agent
