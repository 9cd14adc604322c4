"""Tools of one tenant, in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from services.common.db.database import Database
from services.tool.domain.errors import ToolAlreadyExists
from services.tool.domain.model import Effect, Tool

_COLUMNS = "tool_name, description, input_schema::text AS input_schema, effect, source, create_time"
_CREATE = text(
    f"""
    INSERT INTO tools (tenant_id, tool_name, description, input_schema, effect, source)
    VALUES (:tenant_id, :tool_name, :description, CAST(CAST(:input_schema AS text) AS json), :effect, :source)
    ON CONFLICT (tenant_id, tool_name) DO NOTHING
    RETURNING {_COLUMNS}
    """  # noqa: S608 - the columns are ours
)
_GET = text(f"SELECT {_COLUMNS} FROM tools WHERE tenant_id = :tenant_id AND tool_name = :tool_name")  # noqa: S608
_LIST = text(
    f"""
    SELECT {_COLUMNS} FROM tools
    WHERE tenant_id = :tenant_id AND tool_name > :after ORDER BY tool_name LIMIT :limit
    """  # noqa: S608 - as above
)


class PostgresTools:
    """Implements the port ToolStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, tenant_id: str, tool: Tool) -> Tool:
        """See ToolStore."""
        values = {
            "tenant_id": tenant_id,
            "tool_name": tool.tool_name,
            "description": tool.description,
            "input_schema": json.dumps(tool.input_schema),
            "effect": tool.effect.value,
            "source": tool.source,
        }
        async with self._database.tenant(tenant_id) as connection:
            row = (await connection.execute(_CREATE, values)).one_or_none()
        if row is None:
            raise ToolAlreadyExists(tool.tool_name)
        return _tool(row)

    async def get(self, tenant_id: str, tool_name: str) -> Tool | None:
        """See ToolStore."""
        async with self._database.tenant(tenant_id) as connection:
            row = (await connection.execute(_GET, {"tenant_id": tenant_id, "tool_name": tool_name})).one_or_none()
        return None if row is None else _tool(row)

    async def list_after(self, tenant_id: str, tool_name: str, limit: int) -> Sequence[Tool]:
        """See ToolStore."""
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.execute(_LIST, {"tenant_id": tenant_id, "after": tool_name, "limit": limit})
            return [_tool(row) for row in rows]


def _tool(row: Any) -> Tool:
    return Tool(
        tool_name=row.tool_name,
        description=row.description,
        input_schema=json.loads(row.input_schema),
        effect=Effect(row.effect),
        source=row.source,
        create_time=row.create_time,
    )
