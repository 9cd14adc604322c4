"""Checks of what the mesh stands on, each over a connection of its own that heals by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiokafka.client import AIOKafkaClient

from services.common.db.database import open_database
from services.common.errors import DependencyUnavailable
from services.common.kafka.connection import KafkaSettings, kafka_arguments
from services.common.redis import check_redis, open_redis
from services.monitor.domain.ports import Check


class KafkaCheck:
    """Asks a Kafka broker for the cluster's metadata."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._arguments = kafka_arguments(settings)
        self._client: AIOKafkaClient | None = None

    async def __call__(self) -> None:
        """Raises DependencyUnavailable when no broker answers."""
        try:
            if self._client is None:
                client = AIOKafkaClient(**self._arguments, client_id="guildmesh-monitor", request_timeout_ms=1000)
                self._client = client
                await client.bootstrap()
            # False, not an exception, is how the client says that no node answered.
            if not await self._client.force_metadata_update():
                raise DependencyUnavailable("kafka")
        except BaseException as error:
            # Also when the check is cancelled by its timeout: a half-made client is of no use to the next one.
            await self.close()
            if isinstance(error, Exception) and not isinstance(error, DependencyUnavailable):
                raise DependencyUnavailable("kafka") from error
            raise

    async def close(self) -> None:
        """Closes the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


@asynccontextmanager
async def open_dependency_checks(settings: KafkaSettings) -> AsyncIterator[dict[str, Check]]:
    """The checks of database, redis, redis_cache and kafka."""
    # One connection is enough to ask; the pools are for the services.
    single = settings.model_copy(update={"db_pool_size": 1, "db_max_overflow": 0, "redis_max_connections": 2})
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(single, "monitor"))
        redis = await stack.enter_async_context(open_redis(settings.redis_url, single))
        cache = await stack.enter_async_context(open_redis(settings.redis_cache_url or settings.redis_url, single))
        kafka = KafkaCheck(settings)
        stack.push_async_callback(kafka.close)

        async def redis_check() -> None:
            await check_redis(redis, "redis")

        async def cache_check() -> None:
            await check_redis(cache, "redis_cache")

        yield {"database": database.check, "redis": redis_check, "redis_cache": cache_check, "kafka": kafka}
