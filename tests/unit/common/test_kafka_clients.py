"""How a client of Kafka ends that gets no answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.common.kafka.clients import running_client


class TryingConsumer:
    """Ends as aiokafka's does while a try waits: it awaits what it has cancelled, and comes no further."""

    def __init__(self) -> None:
        self._client = self
        self.closed = 0

    async def start(self) -> None: ...

    async def stop(self) -> None:
        trying = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        trying.cancel()
        await trying

    async def close(self) -> None:
        self.closed += 1


async def test_the_end_of_a_client_without_an_answer_is_not_the_end_of_who_has_it() -> None:
    consumer: Any = TryingConsumer()
    async with running_client(consumer, start_seconds=1, stop_seconds=1):
        assert not consumer.closed
    assert consumer.closed == 1


async def test_who_is_told_to_stop_while_a_client_ends_stops_and_leaves_nothing_open() -> None:
    consumer: Any = TryingConsumer()
    ending = asyncio.Event()

    async def stop() -> None:
        ending.set()
        await asyncio.sleep(60)

    consumer.stop = stop

    async def use() -> None:
        async with running_client(consumer, start_seconds=1, stop_seconds=30):
            pass

    using = asyncio.create_task(use())
    await ending.wait()
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert consumer.closed == 1
