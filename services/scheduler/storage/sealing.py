"""Sealing anew, with the newest master key, what is kept sealed with another one or not at all: so that one can be taken away."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

import asyncpg
import structlog

from services.common.db.engine_role import EngineDriver
from services.common.errors import DomainError

log = structlog.get_logger(__name__)

FIRST_ID = "00000000-0000-0000-0000-000000000000"
PAGE = 500
"""rows that one transaction seals."""
_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class SealedPage:
    """What came of a page."""

    sealed: int = 0
    left: int = 0
    """rows that are sealed with a master key that this process does not have, or were changed."""
    last_id: str | None = None
    """of the page; None when nothing is behind it."""


class SealedTable(Protocol):
    """A table with sealed columns."""

    name: str
    """for the log, such as "event_keys"."""

    async def seal_page(self, connection: asyncpg.Connection, after: str) -> SealedPage:
        """Seals up to PAGE rows, in the order of their ids from behind `after` on, that the newest master key has not sealed.

        The rows stay locked until the end of the transaction: what somebody else sealed meanwhile is passed over.
        """


class Sealing:
    """Goes through the tables once, a page at a time; several processes may do so at once."""

    def __init__(self, database: EngineDriver, *tables: SealedTable) -> None:
        self._database = database
        self._tables = tables

    async def run(self) -> None:
        """Seals, then waits until cancelled; tries again for as long as the database is away."""
        for table in self._tables:
            while True:
                try:
                    await self._seal_all(table)
                    break
                except DomainError as error:
                    log.warning(f"{table.name}_not_sealed_anew", error=error.message)
                except Exception:
                    log.exception(f"{table.name}_not_sealed_anew")
                await asyncio.sleep(_RETRY_SECONDS)
        await asyncio.Event().wait()

    async def _seal_all(self, table: SealedTable) -> None:
        after: str | None = FIRST_ID
        sealed = left = 0
        while after is not None:
            async with self._database.transaction() as connection:
                page = await table.seal_page(connection, after)
            sealed += page.sealed
            left += page.left
            after = page.last_id
        if left:
            log.error(f"{table.name}_sealed_otherwise", rows=left, hint="set GUILDMESH_EVENT_MASTER_KEY_BEFORE")
        if sealed:
            log.info(f"{table.name}_sealed_anew", rows=sealed)
