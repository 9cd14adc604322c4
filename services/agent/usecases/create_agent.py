"""Creates an agent."""

from __future__ import annotations

from services.agent.domain.agent import Agent
from services.agent.domain.ports import AgentRepository


class CreateAgent:
    """Keeps a new agent of a tenant."""

    def __init__(self, agents: AgentRepository) -> None:
        self._agents = agents

    async def __call__(self, tenant_id: str, agent: Agent) -> Agent:
        """The agent with its time; raises AgentAlreadyExists when the id is taken."""
        return await self._agents.add(tenant_id, agent)
