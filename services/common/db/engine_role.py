"""Transactions over all tenants, as the role `<schema>_engine`.

Only batch, lease, relay and sweep modules import this one; import-linter holds everyone else to `Database.tenant`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database


class EngineDatabase:
    """A service's pool, seen over all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One transaction over all tenants; raises what Database.tenant raises."""
        async with self._database.transaction(f"{self._database.schema}_engine", "", by_key=True) as connection:
            yield connection
