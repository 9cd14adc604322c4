"""Migrations of a service's schema, and what every migration needs: roles and row-level security."""

from __future__ import annotations

import importlib.resources
import re
import time
import zlib
from pathlib import Path

import psycopg2
from alembic import command, op
from alembic.config import Config
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from services.common.errors import DependencyUnavailable
from services.common.settings import ServiceSettings

# The roles belong to the whole server, so services that migrate at once take this lock one after another.
_LOCK = zlib.crc32(b"guildmesh.migrations")


def migrate(settings: ServiceSettings, package: str, schema: str, wait_seconds: float = 30.0) -> None:
    """Brings `schema` to the newest revision in `package`/versions; one process at a time, safe to repeat.

    Raises:
        DependencyUnavailable: the database did not answer within `wait_seconds`.
    """
    url = make_url(settings.database_url.get_secret_value()).set(drivername="postgresql+psycopg2")
    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 5})
    end = time.monotonic() + wait_seconds
    pause = 0.1
    while True:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
            break
        except OperationalError as error:
            if time.monotonic() > end or not isinstance(error.orig, psycopg2.OperationalError):
                raise DependencyUnavailable("database") from error
            time.sleep(pause)
            pause = min(pause * 2, 2.0)
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "alembic"))
    configuration.set_main_option("path_separator", "newline")
    with importlib.resources.as_file(importlib.resources.files(package) / "versions") as versions:
        configuration.set_main_option("version_locations", str(versions))
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
            connection.commit()
            try:
                connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{_name(schema)}"'))
                connection.commit()
                configuration.attributes.update(connection=connection, schema=schema)
                command.upgrade(configuration, "head")
                connection.commit()
            finally:
                connection.rollback()
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})
                connection.commit()
    engine.dispose()


def create_schema_and_roles(schema: str) -> None:
    """Creates the schema and its roles `<schema>_api` and `<schema>_engine`, which the login role may take but not inherit."""
    op.execute(f'CREATE SCHEMA IF NOT EXISTS "{_name(schema)}"')
    for role in (f"{schema}_api", f"{schema}_engine"):
        op.execute(
            f"""
            DO $$ BEGIN
              IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
                CREATE ROLE "{role}" NOLOGIN NOBYPASSRLS;
              END IF;
              EXECUTE format('GRANT "{role}" TO %I WITH INHERIT FALSE, SET TRUE', current_user);
            END $$
            """
        )
        op.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO "{role}"')


def enable_tenant_rls(schema: str, table: str) -> None:
    """Forces row-level security on a table with a column `tenant_id`: the api role sees one tenant, the engine role all."""
    target = f'"{_name(schema)}"."{_name(table)}"'
    op.execute(f"ALTER TABLE {target} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {target} FORCE ROW LEVEL SECURITY")
    tenant = "tenant_id = current_setting('guildmesh.tenant', true)"
    op.execute(f'CREATE POLICY tenant ON {target} TO "{schema}_api" USING ({tenant}) WITH CHECK ({tenant})')
    op.execute(f'CREATE POLICY engine ON {target} TO "{schema}_engine" USING (true) WITH CHECK (true)')
    grant(schema, table, "api", "SELECT, INSERT, UPDATE, DELETE")
    grant(schema, table, "engine", "SELECT, INSERT, UPDATE, DELETE")


def grant(schema: str, table: str, role: str, privileges: str) -> None:
    """Grants privileges on a table (and the use of the schema's sequences) to the role "api" or "engine"."""
    op.execute(f'GRANT {privileges} ON "{_name(schema)}"."{_name(table)}" TO "{schema}_{role}"')
    op.execute(f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA "{schema}" TO "{schema}_{role}"')


def _name(identifier: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", identifier):
        raise ValueError(f"{identifier!r} is not a plain identifier")
    return identifier
