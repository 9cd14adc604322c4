"""Who publishes the records of use, and who waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from services.common.errors import DependencyUnavailable
from services.tool.domain.lanes import USAGE_LANE
from services.tool.domain.told import Usage
from services.tool.usecases.publish_usages import PublishUsages


class Topic:
    """Lanes, an outbox and a topic in memory."""

    def __init__(self, *, owned: bool) -> None:
        self.has = owned
        self.asked = self.opened = 0
        self.waiting = [Usage(place, "acme", f"x/{place}", "", b"") for place in range(3)]
        self.published: list[str] = []
        self.away = 1

    def owned(self) -> Mapping[int, int]:
        self.asked += 1
        return {USAGE_LANE: 7} if self.has else {}

    async def ensure(self) -> None:
        pass

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Topic]:
        self.opened += 1
        yield self

    async def read(self, most: int) -> Sequence[Usage]:
        return self.waiting[:most]

    async def publish(self, usages: Sequence[Usage]) -> None:
        if self.away:
            self.away -= 1
            raise DependencyUnavailable("Kafka cluster")
        self.published += [usage.usage_id for usage in usages]

    async def delete(self, usages: Sequence[Usage]) -> None:
        self.waiting = [usage for usage in self.waiting if usage not in usages]


async def test_who_has_not_the_lane_waits_though_it_is_woken() -> None:
    topic = Topic(owned=False)
    publish = PublishUsages(topic, topic, topic, poll_seconds=10.0)
    running = asyncio.create_task(publish.run())
    for _ in range(5):
        publish.woken()
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert 1 <= topic.asked <= 10
    assert topic.opened == 0


async def test_what_was_not_published_is_published_again_and_then_deleted() -> None:
    topic = Topic(owned=True)
    running = asyncio.create_task(PublishUsages(topic, topic, topic, poll_seconds=10.0).run())
    async with asyncio.timeout(5):
        while topic.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (topic.published, topic.opened) == (["x/0", "x/1", "x/2"], 2)
