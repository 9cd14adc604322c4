"""A replica's connections to the scratch database, and an end for the tasks that use them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg

LEASE_SECONDS = 2.0
"""of a task, and of an owner."""


async def connect(url: str, planning: str) -> asyncpg.Connection:
    """A connection of a replica. A process that is stopped in the middle of a transaction loses its locks after a second."""
    connection = await asyncpg.connect(url, server_settings={"idle_in_transaction_session_timeout": "1000", "jit": "off"})
    await connection.execute(f"SET ROLE scheduler_engine; SET search_path = scheduler, public; {planning}")
    return connection


async def stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Ends tasks. A statement that is broken off may raise in place of the cancellation, so they are told until they end."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)
