"""The scenarios of a tenant in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, text

from services.agent.domain.documents import scenario_from_document, scenario_to_document
from services.agent.domain.errors import ScenarioAlreadyExists
from services.agent.domain.scenario import Scenario
from services.common.db.database import Database

_ADD = text(
    """
    INSERT INTO scenarios (tenant_id, scenario_id, document)
    VALUES (:tenant_id, :scenario_id, CAST(:document AS json))
    ON CONFLICT (tenant_id, scenario_id) DO NOTHING
    RETURNING create_time
    """
)
_GET = text(
    """
    SELECT CAST(document AS text) AS document, create_time FROM scenarios
    WHERE tenant_id = :tenant_id AND scenario_id = :scenario_id
    """
)
_LIST = text(
    """
    SELECT CAST(document AS text) AS document, create_time FROM scenarios
    WHERE tenant_id = :tenant_id AND scenario_id > :after
    ORDER BY scenario_id LIMIT :limit
    """
)


class PostgresScenarioRepository:
    """Implements ScenarioRepository."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, tenant_id: str, scenario: Scenario) -> Scenario:
        """Keeps a new scenario."""
        document = json.dumps(scenario_to_document(scenario), ensure_ascii=False)
        row = {"tenant_id": tenant_id, "scenario_id": scenario.scenario_id, "document": document}
        async with self._database.tenant(tenant_id) as connection:
            added = (await connection.execute(_ADD, row)).one_or_none()
        if added is None:
            raise ScenarioAlreadyExists(scenario.scenario_id)
        return replace(scenario, create_time=added.create_time)

    async def get(self, tenant_id: str, scenario_id: str) -> Scenario | None:
        """Reads a scenario."""
        async with self._database.tenant(tenant_id) as connection:
            row = (await connection.execute(_GET, {"tenant_id": tenant_id, "scenario_id": scenario_id})).one_or_none()
        return None if row is None else _from_row(row)

    async def list(self, tenant_id: str, after: str, limit: int) -> Sequence[Scenario]:
        """Reads scenarios by id."""
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.execute(_LIST, {"tenant_id": tenant_id, "after": after, "limit": limit})
            return [_from_row(row) for row in rows]


def _from_row(row: Row[Any]) -> Scenario:
    return replace(scenario_from_document(json.loads(row.document)), create_time=row.create_time)
