"""Transactions over all tenants, as the role `<schema>_engine`.

Only batch, lease, relay and sweep modules import this one; import-linter holds everyone else to `Database.tenant`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.db.driver import Driver


class EngineDatabase:
    """A service's pool, seen over all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One transaction over all tenants; raises what Database.tenant raises."""
        async with self._database.transaction(f"{self._database.schema}_engine", "") as connection:
            yield connection


class EngineDriver:
    """A service's connections without SQLAlchemy, seen over all tenants."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    @asynccontextmanager
    async def transaction(
        self, *, by_key: bool = False, one_plan: bool = False, first: str = ""
    ) -> AsyncIterator[asyncpg.Connection]:
        """One transaction over all tenants; raises what Driver.tenant raises.

        With `by_key` a statement that joins a table with arrays must name the keys (`id = ANY($1)`) as well: then it reads those
        rows by the index and joins by a hash, whatever the planner believes about the table. With `one_plan`, which is for
        statements that come again and again, each is planned once for all arguments. `first` is a statement that is sent with
        those that begin the transaction.
        """
        async with self._driver.engine(by_key=by_key, one_plan=one_plan, first=first) as connection:
            yield connection
