"""Roles, row-level security and outages, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from services.common.db.database import Database, open_database, raw
from services.common.db.engine_role import EngineDatabase
from services.common.db.migrations import migrate
from services.common.errors import ConcurrentChange, DependencyUnavailable
from services.common.settings import ServiceSettings

MIGRATION = """
from alembic import op
from services.common.db.migrations import create_schema_and_roles, enable_tenant_rls

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_schema_and_roles("probe")
    op.execute("CREATE TABLE probe.notes (tenant_id text NOT NULL, id int NOT NULL, body text, PRIMARY KEY (tenant_id, id))")
    enable_tenant_rls("probe", "notes")
"""


@pytest.fixture
def settings(empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServiceSettings:
    package = tmp_path / "probe_migrations"
    (package / "versions").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "versions" / "__init__.py").touch()
    (package / "versions" / "2026_11_22_0001_notes.py").write_text(MIGRATION)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = ServiceSettings(database_url=SecretStr(empty_database_url), db_pool_size=2, db_max_overflow=2)
    migrate(settings, "probe_migrations", "probe")
    migrate(settings, "probe_migrations", "probe")  # a second run changes nothing
    return settings


@pytest.fixture
async def database(settings: ServiceSettings) -> AsyncIterator[Database]:
    async with open_database(settings, "probe") as database:
        for tenant in ("acme", "globex"):
            async with database.tenant(tenant) as connection:
                await connection.execute(
                    text("INSERT INTO notes VALUES (:tenant, 1, 'secret of ' || :tenant)"), {"tenant": tenant}
                )
        yield database


async def test_a_tenant_sees_its_rows_only_even_without_a_where_clause(database: Database) -> None:
    async with database.tenant("acme") as connection:
        rows = (await connection.execute(text("SELECT body FROM notes"))).scalars().all()
        changed = await connection.execute(text("UPDATE notes SET body = 'x'"))
        deleted = await connection.execute(text("DELETE FROM notes WHERE tenant_id = 'globex'"))
    assert rows == ["secret of acme"]
    assert (changed.rowcount, deleted.rowcount) == (1, 0)


async def test_a_tenant_cannot_write_for_another(database: Database) -> None:
    with pytest.raises(ProgrammingError, match="row-level security"):
        async with database.tenant("acme") as connection:
            await connection.execute(text("INSERT INTO notes VALUES ('globex', 2, 'forged')"))


async def test_the_engine_role_sees_all_tenants(database: Database) -> None:
    async with EngineDatabase(database).transaction() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM notes"))).scalar_one() == 2


async def test_without_a_role_the_login_sees_nothing(database: Database) -> None:
    async with database._engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM probe.notes"))).scalar_one() == 0


async def test_no_tenant_sees_nothing(database: Database) -> None:
    async with database.tenant("") as connection:
        assert (await connection.execute(text("SELECT count(*) FROM notes"))).scalar_one() == 0


async def test_a_block_that_raises_leaves_nothing_behind(database: Database) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        async with database.tenant("acme") as connection:
            await connection.execute(text("INSERT INTO notes VALUES ('acme', 9, '')"))
            raise RuntimeError("stop")
    async with database.tenant("acme") as connection:
        assert (await connection.execute(text("SELECT count(*) FROM notes WHERE id = 9"))).scalar_one() == 0


async def test_a_violated_constraint_is_the_use_cases_to_read(database: Database) -> None:
    with pytest.raises(IntegrityError):
        async with database.tenant("acme") as connection:
            await connection.execute(text("INSERT INTO notes VALUES ('acme', 1, '')"))


async def test_a_lock_that_is_taken_is_a_concurrent_change(database: Database) -> None:
    async with database.tenant("acme") as holder:
        await holder.execute(text("SELECT * FROM notes FOR UPDATE"))
        with pytest.raises(ConcurrentChange):
            async with database.tenant("acme") as other:
                await (await raw(other)).execute("SELECT * FROM notes FOR UPDATE NOWAIT")


async def test_a_killed_connection_is_an_outage_and_the_next_one_works(database: Database) -> None:
    async with database.tenant("acme") as victim:
        pid = (await victim.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    with pytest.raises(DependencyUnavailable):
        async with database.tenant("acme") as connection:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid()) FROM set_config('role', 'none', true)"))
            await connection.execute(text("SELECT 1"))
    async with database.tenant("acme") as connection:
        assert (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one() != pid
    await database.check()


async def test_a_database_that_is_away_is_an_outage() -> None:
    settings = ServiceSettings(database_url=SecretStr("postgresql://nobody@127.0.0.1:1/none"))
    async with open_database(settings, "probe") as database:
        with pytest.raises(DependencyUnavailable):
            await database.check()
        with pytest.raises(DependencyUnavailable):
            async with database.tenant("acme"):
                pass
