"""The agents of a tenant in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, text

from services.agent.domain.agent import Agent
from services.agent.domain.errors import AgentAlreadyExists
from services.common.db.database import Database

_COLUMNS = "agent_id, display_name, agent_type, instructions, model, queue, tools, create_time"
_ADD = text(
    """
    INSERT INTO agents (tenant_id, agent_id, display_name, agent_type, instructions, model, queue, tools)
    VALUES (:tenant_id, :agent_id, :display_name, :agent_type, :instructions, :model, :queue, :tools)
    ON CONFLICT (tenant_id, agent_id) DO NOTHING
    RETURNING create_time
    """
)
_GET = text(f"SELECT {_COLUMNS} FROM agents WHERE tenant_id = :tenant_id AND agent_id = ANY(:agent_ids)")  # noqa: S608
_LIST = text(
    f"SELECT {_COLUMNS} FROM agents WHERE tenant_id = :tenant_id AND agent_id > :after ORDER BY agent_id LIMIT :limit"  # noqa: S608
)


class PostgresAgentRepository:
    """Implements AgentRepository."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, tenant_id: str, agent: Agent) -> Agent:
        """Keeps a new agent."""
        row = {
            "tenant_id": tenant_id,
            "agent_id": agent.agent_id,
            "display_name": agent.display_name,
            "agent_type": agent.agent_type,
            "instructions": agent.instructions,
            "model": agent.model,
            "queue": agent.queue,
            "tools": list(agent.tools),
        }
        async with self._database.tenant(tenant_id) as connection:
            added = (await connection.execute(_ADD, row)).one_or_none()
        if added is None:
            raise AgentAlreadyExists(agent.agent_id)
        return replace(agent, create_time=added.create_time)

    async def get(self, tenant_id: str, agent_id: str) -> Agent | None:
        """Reads an agent."""
        return (await self.get_many(tenant_id, [agent_id])).get(agent_id)

    async def get_many(self, tenant_id: str, agent_ids: Collection[str]) -> dict[str, Agent]:
        """Reads those agents that exist."""
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.execute(_GET, {"tenant_id": tenant_id, "agent_ids": sorted(agent_ids)})
            return {row.agent_id: _from_row(row) for row in rows}

    async def list(self, tenant_id: str, after: str, limit: int) -> Sequence[Agent]:
        """Reads agents by id."""
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.execute(_LIST, {"tenant_id": tenant_id, "after": after, "limit": limit})
            return [_from_row(row) for row in rows]


def _from_row(row: Row[Any]) -> Agent:
    return Agent(
        agent_id=row.agent_id,
        display_name=row.display_name,
        agent_type=row.agent_type,
        instructions=row.instructions,
        model=row.model,
        queue=row.queue,
        tools=tuple(row.tools),
        create_time=row.create_time,
    )
