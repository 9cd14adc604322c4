"""What the database itself refuses, whatever a query says; and how a search is planned."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from services.common.db.database import Database, open_database
from services.memory.domain.conversation import NewMessage
from services.memory.domain.memory import EMBEDDING_DIMENSIONS, NewMemory
from services.memory.storage.conversations import PostgresConversations
from services.memory.storage.memories import PostgresMemories
from tests.integration.memory.conftest import MakeSettings, someone


@pytest.fixture
async def database(make_memory_settings: MakeSettings) -> AsyncIterator[Database]:
    async with open_database(make_memory_settings(), "memory") as database:
        yield database


def axis(number: int) -> list[float]:
    return [1.0 if position == number else 0.0 for position in range(EMBEDDING_DIMENSIONS)]


@pytest.mark.parametrize("table", ["conversations", "messages", "memories"])
async def test_another_tenant_sees_no_row_without_a_where_clause(database: Database, table: str) -> None:
    mine, other = someone(), someone()
    await PostgresConversations(database).start(mine, "", [NewMessage("user", "secret", {})])
    await PostgresMemories(database).create(mine.tenant_id, NewMemory("secret", "ada", {}), axis(0))
    select, change = text(f"SELECT * FROM {table}"), text(f"UPDATE {table} SET create_time = now()")
    async with database.tenant(other.tenant_id) as connection:
        assert (await connection.execute(select)).all() == []
        assert (await connection.execute(change)).rowcount == 0
        assert (await connection.execute(text(f"DELETE FROM {table}"))).rowcount == 0
    async with database.tenant(mine.tenant_id) as connection:
        assert len((await connection.execute(select)).all()) == 1


async def test_a_row_of_another_tenant_cannot_be_written(database: Database) -> None:
    mine, other = someone(), someone()
    with pytest.raises(ProgrammingError, match="row-level security"):
        async with database.tenant(other.tenant_id) as connection:
            statement = "INSERT INTO conversations VALUES (:tenant, gen_random_uuid(), 'eve', 'planted')"
            await connection.execute(text(statement), {"tenant": mine.tenant_id})


async def test_scores_are_cosines_from_minus_one_to_one(database: Database) -> None:
    tenant = someone().tenant_id
    memories = PostgresMemories(database)
    for name, vector in (("same", axis(0)), ("across", axis(1)), ("opposite", [-value for value in axis(0)])):
        await memories.create(tenant, NewMemory(name, "ada", {}), vector)
    matches = await memories.search(tenant, "", axis(0), 3)
    assert [(match.memory.content, match.score) for match in matches] == [("same", 1), ("across", 0), ("opposite", -1)]


async def test_a_search_of_one_owner_reads_only_that_owner(database: Database) -> None:
    tenant = someone().tenant_id
    fill = text(
        """
        INSERT INTO memories (tenant_id, memory_id, owner, content, metadata, embedding)
        SELECT :tenant, gen_random_uuid(), 'owner ' || number % 200, 'text', '{}', CAST(:vector AS vector)
        FROM generate_series(1, 4000) AS number
        """
    )
    explain = text(
        """
        EXPLAIN SELECT memory_id FROM memories WHERE tenant_id = :tenant AND owner = 'owner 7'
        ORDER BY embedding <#> CAST(:vector AS vector) LIMIT 10
        """
    )
    parameters = {"tenant": tenant, "vector": str(axis(0))}
    async with database.tenant(tenant) as connection:
        await connection.execute(fill, parameters)
    assert len(await PostgresMemories(database).search(tenant, "owner 7", axis(0), 100)) == 20
    async with database.tenant(tenant) as connection:
        plan = "\n".join(row[0] for row in await connection.execute(explain, parameters))
        await connection.execute(text("DELETE FROM memories"))
    assert "memories_of_owner" in plan
