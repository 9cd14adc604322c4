"""The pool of a service, and transactions for one tenant.

A service has two roles: `<schema>_api`, which row-level security holds to one tenant, and `<schema>_engine` for work over all
tenants (services.common.db.engine_role). The login role itself owns nothing it could read without taking one of them, because
row-level security is forced; a transaction takes its role first, and PgBouncer in transaction mode serves it as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.common.errors import ConcurrentChange, DependencyUnavailable
from services.common.settings import ServiceSettings

_ENTER = text(
    "SELECT set_config('role', :role, true), set_config('search_path', :search_path, true),"
    " set_config('guildmesh.tenant', :tenant, true)"
)
# serialization_failure, deadlock_detected, lock_not_available
_CONFLICTS = {"40001", "40P01", "55P03"}
# connection failures, admin shutdown, too many connections, cannot connect now, read-only (a failover), disk full, and a
# transaction that took longer than it may, silent or not
_OUTAGES = ("08", "57P", "53", "25006", "25P03", "25P04")


CONNECT_SECONDS = 5


class Database:
    """The connection pool of one service and its schema."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self.schema = schema

    @asynccontextmanager
    async def tenant(self, tenant_id: str) -> AsyncIterator[AsyncConnection]:
        """One transaction of `tenant_id` as the role `<schema>_api`; commits at the end, rolls back when the block raises.

        Raises:
            DependencyUnavailable: the database does not answer.
            ConcurrentChange: a serialization failure or a deadlock.
        """
        async with self.transaction(f"{self.schema}_api", tenant_id) as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self, role: str, tenant_id: str) -> AsyncIterator[AsyncConnection]:
        """One transaction as `role`; use `tenant` or EngineDatabase instead."""
        try:
            async with self._engine.begin() as connection:
                await connection.execute(_ENTER, {"role": role, "search_path": f"{self.schema}, public", "tenant": tenant_id})
                yield connection
        except DBAPIError as error:
            raise translate(error) from error
        except (
            PoolTimeout,
            OSError,
            TimeoutError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            asyncpg.PostgresConnectionError,
        ) as error:
            if not is_outage(error):
                raise
            raise DependencyUnavailable("database") from error
        except asyncpg.PostgresError as error:
            raise translate_state(error.sqlstate, error) from error

    async def check(self) -> None:
        """Raises DependencyUnavailable when the database does not answer within 2 s."""
        try:
            async with asyncio.timeout(2), self._engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except (
            SQLAlchemyError,
            OSError,
            TimeoutError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        ) as error:
            raise DependencyUnavailable("database") from error


def translate(error: DBAPIError) -> Exception:
    """The domain error of a driver error, or the error itself when it is the use case's to read (a violated constraint)."""
    if error.connection_invalidated:
        return DependencyUnavailable("database")
    state = getattr(error.orig, "sqlstate", None)
    if state is None and isinstance(error.orig, OSError | asyncpg.InterfaceError):
        return DependencyUnavailable("database")
    return translate_state(state, error)


def is_outage(error: Exception) -> bool:
    """Whether the database is away, and not the caller's own deadline over (which is a bare TimeoutError of a cancelled task)."""
    if isinstance(error, TimeoutError) and not isinstance(error, PoolTimeout):
        task = asyncio.current_task()
        return task is None or not task.cancelling()
    # asyncpg's own word for a value that does not fit its parameter is an InterfaceError too.
    return not isinstance(error, ValueError)


def translate_state(state: str | None, error: Exception) -> Exception:
    """The domain error of an SQLSTATE, or the error itself when it is the use case's to read."""
    if state in _CONFLICTS:
        return ConcurrentChange()
    if state is not None and state.startswith(_OUTAGES):
        return DependencyUnavailable("database")
    return error


async def raw(connection: AsyncConnection) -> asyncpg.Connection:
    """The asyncpg connection below, for set-based statements over arrays; the transaction stays the outer one's."""
    wrapper = await connection.get_raw_connection()
    driver = wrapper.driver_connection
    if driver is None:
        raise DependencyUnavailable("database")
    return driver


def server_settings(schema: str) -> dict[str, str]:
    """What each connection sets."""
    # jit costs more than it gives for short statements; a lost client must not hold its transaction open.
    return {"application_name": f"guildmesh-{schema}", "jit": "off", "idle_in_transaction_session_timeout": "60000"}


def asyncpg_url(url: str) -> str:
    """The SQLAlchemy URL of a DATABASE_URL, with the driver that the services use."""
    return make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


@asynccontextmanager
async def open_database(settings: ServiceSettings, schema: str) -> AsyncIterator[Database]:
    """The pool of a service (requirement row 5); opening it does not need the server to be up."""
    engine = create_async_engine(
        asyncpg_url(settings.database_url.get_secret_value()),
        pool_size=settings.db_pool_size,
        max_overflow=settings.db_max_overflow,
        pool_timeout=settings.db_pool_timeout,
        pool_recycle=settings.db_pool_recycle,
        pool_pre_ping=True,
        connect_args={
            "timeout": CONNECT_SECONDS,
            "server_settings": server_settings(schema),
        },
    )
    if settings.enable_tracing:
        from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

        SQLAlchemyInstrumentor().instrument(engine=engine.sync_engine)
    try:
        yield Database(engine, schema)
    finally:
        await engine.dispose()
