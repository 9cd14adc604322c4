"""Where events begin at a moment, while others are published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from aiokafka import TopicPartition

from services.scheduler.adapters.event_topic import TopicReader

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
