"""What the database itself refuses, whatever a query says."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from services.common.db.database import Database, open_database
from services.common.db.engine_role import EngineDatabase
from services.common.db.migrations import migrate
from services.identity.domain.token import PublicKey, StoredKey
from services.identity.domain.user import NewUser
from services.identity.settings import ServingSettings
from services.identity.storage.engine.logins import PostgresLogins
from services.identity.storage.engine.signing_keys import PostgresSigningKeys
from services.identity.storage.engine.tenants import PostgresTenants
from services.identity.storage.users import PostgresUsers


@pytest.fixture
async def database(make_settings: Callable[..., ServingSettings]) -> AsyncIterator[Database]:
    async with open_database(make_settings(), "identity") as database:
        yield database


def hours(count: int) -> timedelta:
    return timedelta(hours=count)


async def a_user(database: Database) -> tuple[str, str]:
    tenant_id, username = f"t{uuid.uuid4().hex[:12]}", f"u{uuid.uuid4().hex[:12]}"
    await PostgresTenants(EngineDatabase(database)).create(tenant_id, tenant_id)
    await PostgresUsers(database).create(NewUser(username, "", roles=("user",), tenant_id=tenant_id), "hash")
    return tenant_id, username


async def test_another_tenant_sees_and_changes_nothing_without_a_where_clause(database: Database) -> None:
    mine, username = await a_user(database)
    other, _ = await a_user(database)
    async with database.tenant(other) as connection:
        seen = {row.tenant_id for row in await connection.execute(text("SELECT tenant_id FROM users"))}
        tenants = {row.tenant_id for row in await connection.execute(text("SELECT tenant_id FROM tenants"))}
        changed = await connection.execute(text("UPDATE users SET active = false WHERE username = :name"), {"name": username})
        assert changed.rowcount == 0
    assert seen == tenants == {other}
    assert (await PostgresUsers(database).get(mine, username)).active


async def test_a_row_of_another_tenant_cannot_be_written(database: Database) -> None:
    mine, _ = await a_user(database)
    other, _ = await a_user(database)
    with pytest.raises(ProgrammingError, match="row-level security"):
        async with database.tenant(other) as connection:
            await connection.execute(
                text("INSERT INTO users (tenant_id, username, roles, password_hash) VALUES (:t, 'planted', '{}', '')"),
                {"t": mine},
            )


@pytest.mark.parametrize("statement", ["SELECT * FROM signing_keys", "INSERT INTO tenants VALUES ('mine', 'Mine')"])
async def test_a_callers_transaction_reaches_neither_keys_nor_tenants(database: Database, statement: str) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        async with database.tenant("mine") as connection:
            await connection.execute(text(statement))


async def test_an_inactive_user_cannot_log_in(database: Database) -> None:
    tenant_id, username = await a_user(database)
    logins = PostgresLogins(EngineDatabase(database))
    login = await logins.find(username)
    assert login is not None
    await logins.replace_hash(login, "new")
    await logins.replace_hash(login, "late")
    login = await logins.find(username)
    assert login is not None
    assert login.password_hash == "new"
    async with database.tenant(tenant_id) as connection:
        await connection.execute(text("UPDATE users SET active = false"))
    assert await logins.find(username) is None


async def test_keys_are_added_once_and_forgotten_after_their_successor(
    make_settings: Callable[..., ServingSettings], empty_database_url: str
) -> None:
    settings = make_settings(database_url=SecretStr(empty_database_url))
    migrate(settings, package="services.identity.storage.migrations", schema="identity")
    async with open_database(settings, "identity") as database:
        keys = PostgresSigningKeys(EngineDatabase(database))
        assert await keys.load() == []
        assert await keys.add(StoredKey(PublicKey("old", "x", "y"), b"sealed", hours(30)), hours(24 * 365))
        assert not await keys.add(StoredKey(PublicKey("loser", "x", "y"), b"sealed", hours(0)), hours(31))
        assert await keys.add(StoredKey(PublicKey("new", "x", "y"), b"sealed", hours(2)), hours(24))
        assert await keys.add(StoredKey(PublicKey("next", "x", "y"), b"sealed", hours(-1)), None)
        loaded = await keys.load()
        assert [key.public.key_id for key in loaded] == ["next", "new", "old"]
        assert loaded[0].age < hours(0) < loaded[1].age
        assert await keys.forget(hours(3)) == 0
        assert await keys.forget(hours(1)) == 1
        assert [key.public.key_id for key in await keys.load()] == ["next", "new"]
    migrate(settings, package="services.identity.storage.migrations", schema="identity")
