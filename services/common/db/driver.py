"""asyncpg without SQLAlchemy around it: for the services whose statements are all set-based and written by hand.

A transaction of SQLAlchemy's costs about a millisecond of a processor before it has done anything, one here a tenth of it; where
every call is a transaction or two, that is most of the work. Pool, roles, row security and errors are those of
services.common.db.database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy.engine import make_url

from services.common.db.database import CONNECT_SECONDS, is_outage, server_settings, translate_state
from services.common.errors import DependencyUnavailable
from services.common.settings import ServiceSettings
from services.common.telemetry.database_spans import StatementSpans

_CLOSE_SECONDS = 5
_DEFAULT_PORT = 5432
# Nothing but statements happens within a transaction here. A process that stands still in one (SIGSTOP, a frozen machine) holds
# rows that the other replicas need before the leases end.
_IDLE_IN_TRANSACTION = "5000"
# That limit does not hold while the server waits in the middle of an exchange, and asyncpg leaves it so between preparing a
# statement and running it for the first time. This one, which PostgreSQL has since 17, does.
_TRANSACTION_MILLISECONDS = 8_000
_LIMIT_TRANSACTIONS = """
SELECT set_config('transaction_timeout', '{milliseconds}', false) WHERE current_setting('server_version_num')::int >= 170000
"""
# A queue's table that was cleaned while it was empty tells the planner that it has no rows, and keeps telling it when it has a
# million. What reads it must therefore come to the same plan whatever the planner believes.
_NO_SCANS = "SET LOCAL enable_seqscan = off"
_ENTER_TENANT = "SELECT set_config('guildmesh.tenant', $1, true)"
# A read of a partitioned table is cut to the partitions it needs when it runs; to plan it each time costs more than all else.
_ONE_PLAN = f"{_NO_SCANS}; SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL max_parallel_workers_per_gather = 0"
_BY_KEY = f"{_NO_SCANS}; SET LOCAL enable_nestloop = off; SET LOCAL enable_mergejoin = off"


class Driver:
    """The connections of one service and its schema."""

    def __init__(self, pool: asyncpg.Pool, schema: str, acquire_seconds: float, spans: StatementSpans | None = None) -> None:
        self._pool = pool
        self._spans = spans
        self._acquire_seconds = acquire_seconds
        self.schema = schema
        # SET LOCAL ends with the transaction, so a pooler between may hand the connection to anyone after it.
        self._begin = f"BEGIN; SET LOCAL ROLE {schema}_{{role}}; SET LOCAL search_path = {schema}, public; {{planning}}"

    @asynccontextmanager
    async def tenant(self, tenant_id: str) -> AsyncIterator[asyncpg.Connection]:
        """One transaction of `tenant_id` as the role `<schema>_api`; commits at the end, rolls back when the block raises.

        Raises:
            DependencyUnavailable: the database does not answer.
            ConcurrentChange: a serialization failure or a deadlock.
        """
        async with self.transaction(self._begin.format(role="api", planning=_ONE_PLAN)) as connection:
            await connection.fetchval(_ENTER_TENANT, tenant_id)
            yield connection

    @asynccontextmanager
    async def engine(self, *, by_key: bool, one_plan: bool, first: str) -> AsyncIterator[asyncpg.Connection]:
        """One transaction over all tenants; use services.common.db.engine_role.EngineDriver instead."""
        begin = self._begin.format(role="engine", planning=_BY_KEY if by_key else _ONE_PLAN if one_plan else _NO_SCANS)
        async with self.transaction(f"{begin}; {first}" if first else begin) as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self, begin: str) -> AsyncIterator[asyncpg.Connection]:
        """One transaction that starts with the statements `begin`."""
        try:
            async with self._pool.acquire(timeout=self._acquire_seconds) as connection:
                used = connection if self._spans is None else self._spans.around(connection)
                try:
                    await used.execute(begin)
                    yield used
                    await used.execute("COMMIT")
                except BaseException:
                    await _roll_back(connection)
                    raise
        except asyncpg.PostgresError as error:
            raise translate_state(error.sqlstate, error) from error
        except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            if not is_outage(error):
                raise
            raise DependencyUnavailable("database") from error

    async def check(self) -> None:
        """Raises DependencyUnavailable when the database does not answer within 2 s."""
        try:
            async with asyncio.timeout(2), self._pool.acquire() as connection:
                await connection.execute("SELECT 1")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise DependencyUnavailable("database") from error


async def _roll_back(connection: asyncpg.Connection) -> None:
    """Ends the transaction; a connection that cannot is not for anyone after us."""
    if connection.is_closed() or not connection.is_in_transaction():
        return
    try:
        await connection.execute("ROLLBACK")
    except BaseException:
        connection.terminate()
        raise


async def _keep(connection: asyncpg.Connection) -> None:
    """What a transaction sets ends with it, so a connection that comes back needs no cleaning."""


async def _limit_transactions(connection: asyncpg.Connection) -> None:
    await connection.execute(_LIMIT_TRANSACTIONS.format(milliseconds=_TRANSACTION_MILLISECONDS))


@asynccontextmanager
async def open_driver(settings: ServiceSettings, schema: str) -> AsyncIterator[Driver]:
    """The connections of a service (requirement row 5); opening them does not need the server to be up."""
    url = make_url(settings.database_url.get_secret_value()).set(drivername="postgresql")
    pool = asyncpg.create_pool(
        url.render_as_string(hide_password=False),
        min_size=0,
        max_size=settings.db_pool_size + settings.db_max_overflow,
        max_inactive_connection_lifetime=settings.db_pool_recycle,
        timeout=CONNECT_SECONDS,
        server_settings=server_settings(schema) | {"idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION},
        init=_limit_transactions,
        reset=_keep,
    )
    await pool
    spans = None
    if settings.enable_tracing:
        spans = StatementSpans(url.database or "", schema, url.host or "", url.port or _DEFAULT_PORT)
    try:
        yield Driver(pool, schema, settings.db_pool_timeout, spans)
    finally:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()
