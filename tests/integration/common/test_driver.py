"""Connections without SQLAlchemy, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from pydantic import SecretStr

from services.common.db import driver
from services.common.db.driver import open_driver
from services.common.errors import DependencyUnavailable
from services.common.settings import ServiceSettings


@pytest.mark.parametrize("prepared", [False, True])
async def test_who_stands_still_in_a_transaction_loses_what_it_holds(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, prepared: bool
) -> None:
    monkeypatch.setattr(driver, "_IDLE_IN_TRANSACTION", "400")
    monkeypatch.setattr(driver, "_TRANSACTION_MILLISECONDS", 600)
    settings = ServiceSettings(_env_file=None, database_url=SecretStr(empty_database_url))
    async with open_driver(settings, "probe") as database, asyncio.timeout(10):
        with pytest.raises(DependencyUnavailable):
            async with database.transaction("BEGIN") as silent:
                await silent.execute("SELECT pg_advisory_xact_lock(1)")
                if prepared:
                    # Where asyncpg is between preparing a statement and running it: the server is told of no end yet.
                    await silent.prepare("SELECT 1")
                waited = False
                while not waited:
                    # Tried again, since whoever waits has the same limits.
                    with suppress(DependencyUnavailable):
                        async with database.transaction("BEGIN") as other:
                            await other.execute("SELECT pg_advisory_xact_lock(1)")
                            waited = True
                await silent.execute("SELECT 1")


async def test_a_transaction_that_takes_too_long_is_an_outage(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_TRANSACTION_MILLISECONDS", 100)
    settings = ServiceSettings(_env_file=None, database_url=SecretStr(empty_database_url))
    async with open_driver(settings, "probe") as database, asyncio.timeout(10):
        with pytest.raises(DependencyUnavailable):
            async with database.transaction("BEGIN") as connection:
                await connection.execute("SELECT pg_sleep(5)")
