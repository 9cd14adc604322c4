"""Where events begin at a moment, while others are published; and how a reader ends that Kafka does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from aiokafka import TopicPartition

from services.scheduler.adapters.event_topic import TopicReader, _stop

PARTITION = TopicPartition("events", 0)


class GrowingConsumer:
    """An empty partition to which a record is published after each question."""

    def __init__(self) -> None:
        self.end = 0

    async def offsets_for_times(self, moments: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, Any]:
        # The record is in the topic, but not yet where the index of times finds it.
        self.end += 1
        return dict.fromkeys(moments)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        end = self.end
        self.end += 1
        return dict.fromkeys(partitions, end)


async def test_what_is_published_while_the_place_of_a_moment_is_looked_for_is_behind_it() -> None:
    reader = TopicReader(GrowingConsumer(), [PARTITION])  # type: ignore[arg-type]
    assert await reader.at(datetime.now(UTC)) == (0,)


class TryingConsumer:
    """Ends as aiokafka's does while a try waits: it awaits what it has cancelled, and comes no further."""

    def __init__(self) -> None:
        self._client = self
        self.closed = 0

    async def stop(self) -> None:
        trying = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        trying.cancel()
        await trying

    async def close(self) -> None:
        self.closed += 1


async def test_the_end_of_a_reader_that_kafka_does_not_answer_is_not_the_end_of_who_reads() -> None:
    consumer = TryingConsumer()
    await _stop(consumer)  # type: ignore[arg-type]
    assert consumer.closed == 1
    # Who is told to stop meanwhile still stops.
    consumer.stop = lambda: asyncio.sleep(60)  # type: ignore[method-assign]
    stopping = asyncio.create_task(_stop(consumer))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait({stopping})
    assert stopping.cancelled()
