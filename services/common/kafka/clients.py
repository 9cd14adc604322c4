"""A client of Kafka from its start to its end, whatever is away and whoever is cut off meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

Client: TypeAlias = AIOKafkaConsumer | AIOKafkaProducer | AIOKafkaAdminClient

_DROP_SECONDS = 1.0


@asynccontextmanager
async def running_client(client: Client, *, start_seconds: float, stop_seconds: float) -> AsyncIterator[None]:
    """Starts a client, and stops it at the end; one that does not stop within `stop_seconds`, as without its broker, is dropped.

    Raises:
        KafkaError, OSError: no broker answers.
        TimeoutError: none has within `start_seconds`.
    """
    # A start that is cut off would leave its first connection open: it is let go on, and then stopped.
    starting = asyncio.create_task(client.start())
    try:
        async with asyncio.timeout(start_seconds):
            await asyncio.shield(starting)
        yield
    finally:
        try:
            await asyncio.wait({starting}, timeout=stop_seconds)
        finally:
            starting.cancel()
            await _stop(client, stop_seconds)
            await asyncio.gather(starting, return_exceptions=True)


async def _stop(client: Client, seconds: float) -> None:
    """Ends a client in a task of its own.

    While Kafka is away the library cancels tries that wait, and their cancellation comes out of its stop. It is not the caller's,
    whom it would end; and it leaves the library's connections open, which would go on trying for ever.
    """
    stopping = asyncio.ensure_future(client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())
    try:
        await asyncio.wait({stopping}, timeout=seconds)
    finally:
        # Where a task of the library has missed that it was cancelled, its stop waits for it for ever; a second time it hears.
        stopping.cancel()
        await asyncio.wait({stopping}, timeout=_DROP_SECONDS)
        if not stopping.done() or stopping.cancelled() or stopping.exception() is not None:
            connections = client.client if isinstance(client, AIOKafkaProducer) else client._client
            await asyncio.wait({asyncio.ensure_future(connections.close())}, timeout=_DROP_SECONDS)
