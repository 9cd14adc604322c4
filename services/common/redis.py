"""Redis clients (requirement row 6)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import SecretStr
from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import RedisError

from services.common.errors import DependencyUnavailable
from services.common.settings import ServiceSettings


@asynccontextmanager
async def open_redis(url: SecretStr, settings: ServiceSettings) -> AsyncIterator[Redis]:
    """A client whose pool reconnects by itself; opening it does not need the server to be up."""
    pool = ConnectionPool.from_url(
        url.get_secret_value(),
        max_connections=settings.redis_max_connections,
        socket_keepalive=True,
        socket_connect_timeout=2,
        health_check_interval=30,
    )
    client: Redis = Redis(connection_pool=pool)
    try:
        yield client
    finally:
        await client.aclose()
        await pool.aclose()


async def check_redis(client: Redis, name: str = "redis") -> None:
    """Raises DependencyUnavailable when the server does not answer a PING."""
    try:
        await client.execute_command("PING")  # type: ignore[no-untyped-call]
    except (RedisError, OSError, TimeoutError) as error:
        raise DependencyUnavailable(name) from error
