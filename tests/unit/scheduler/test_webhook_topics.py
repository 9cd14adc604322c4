"""Which topics a lane reads for webhooks, and when it goes over from the topic of before to that of now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.common.errors import DependencyUnavailable
from services.scheduler.domain.positions import Positions
from services.scheduler.domain.topic_names import ALL_TENANTS, TopicNames
from services.scheduler.webhooks.aside import Aside
from services.scheduler.webhooks.former_topics import FormerTopics
from services.scheduler.webhooks.lanes import Lanes
from services.scheduler.webhooks.waiting import LaneLost

ONE = TopicNames("mesh.events", "mesh.state", "mesh.dead")
OWN = TopicNames(*ONE.all, per_tenant=True)
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


class Topic:
    """Two partitions, of which the second has records: the minutes after noon in which they were published."""

    def __init__(self, *minutes: float) -> None:
        self.minutes = list(minutes)
        self.opened = 0
        self.newest_asked = 0
        self.at_bounds: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def open(self, only: Sequence[int]) -> AsyncIterator[Topic]:
        self.opened += 1
        yield self
        self.opened -= 1

    async def bounds(self) -> tuple[Positions, Positions]:
        self.at_bounds()
        return (0, 0), (0, len(self.minutes))

    async def at(self, moment: datetime) -> Positions:
        return 0, sum(1 for each in self.minutes if NOON + timedelta(minutes=each) < moment)

    def rest(self) -> None:
        pass

    async def newest(self) -> datetime | None:
        self.newest_asked += 1
        return NOON + timedelta(minutes=self.minutes[-1]) if self.minutes else None


class Topics:
    def __init__(self, names: TopicNames, **topics: Topic) -> None:
        self.names = names
        self.topics = {name.replace("_", "."): topic for name, topic in topics.items()}

    def called(self, name: str) -> Topic:
        return self.topics[name]

    async def exists(self, name: str) -> bool:
        return name in self.topics


def former(before: Topic, now: Topic) -> tuple[FormerTopics, Aside]:
    return FormerTopics(cast(Any, Topics(OWN, mesh_events=before)), [0, 4]), Aside(cast(Any, now), [0, 4])


async def test_a_webhook_stays_with_the_topic_of_before_until_the_relays_have_left_it() -> None:
    before, now = Topic(0, 1, 10), Topic()
    topics, aside = former(before, now)
    assert not await topics.ends_at("mesh.events", (0, 2))
    assert await topics.ends_at("mesh.events", (0, 3))
    assert await topics.after("mesh.events", (0, 3), aside) is None
    # What was there when the setting was the same before says nothing.
    now.minutes = [-60, 7]
    assert await topics.after("mesh.events", (0, 3), aside) is None
    now.minutes += [10.1, 11]
    assert await topics.after("mesh.events", (0, 3), aside) == (0, 2)
    assert before.newest_asked == 1
    await topics.close()
    assert before.opened == 0


async def test_what_the_last_relay_of_before_published_meanwhile_is_read_first() -> None:
    before, now = Topic(0), Topic(1)
    topics, aside = former(before, now)
    # Its last transaction is there only now, as the first of the next relay is seen.
    now.at_bounds = lambda: before.minutes.append(0.5)
    assert await topics.after("mesh.events", (0, 1), aside) is None
    now.at_bounds = lambda: None
    assert await topics.after("mesh.events", (0, 2), aside) == (0, 0)


async def test_where_nothing_is_kept_of_the_topic_of_before_all_of_that_of_now_is_read() -> None:
    topics, aside = former(Topic(), Topic(-900, 3))
    assert await topics.after("mesh.events", (0, 0), aside) == (0, 0)


async def test_events_from_a_time_on_begin_on_the_topic_of_before_if_they_do() -> None:
    topics, _ = former(Topic(0, 1, 10), Topic())
    assert await topics.start("acme", NOON + timedelta(minutes=1)) == ("mesh.events", (0, 1))
    assert await topics.start("acme", NOON + timedelta(minutes=11)) is None
    back = FormerTopics(cast(Any, Topics(ONE, mesh_acme_events=Topic(5))), [0, 4])
    assert await back.start("acme", NOON) == ("mesh.acme.events", (0, 0))
    assert await back.start("globex", NOON) is None
    assert await back.exists("mesh.acme.events")
    await back.keep(["mesh.acme.events"])
    await back.keep([])


class Registry:
    """Tenants that have webhooks."""

    def __init__(self, *tenants: str) -> None:
        self.next_change = asyncio.Event()
        self.tenants = set(tenants)

    async def ready(self) -> None:
        pass

    def change(self, *tenants: str) -> None:
        self.tenants = set(tenants)
        self.next_change.set()
        self.next_change = asyncio.Event()


class Readings:
    """What is read; each reading lasts until it is told to fail."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.begun: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.changed = asyncio.Event()

    def __call__(self, owner: str) -> Any:
        return SimpleNamespace(run=lambda: self.run(owner))

    async def run(self, owner: str) -> None:
        self.begun.append(owner)
        if error := self.failing.get(owner):
            raise error
        self.open.append(owner)
        self.changed.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.open.remove(owner)
            self.changed.set()

    async def until(self, *owners: str) -> None:
        async with asyncio.timeout(5):
            while sorted(self.open) != sorted(owners):
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
def readings() -> Readings:
    return Readings()


@asynccontextmanager
async def reading(names: TopicNames, registry: Registry, readings: Readings) -> AsyncIterator[asyncio.Task[None]]:
    tools = SimpleNamespace(registry=registry, topics=SimpleNamespace(names=names))
    lanes = Lanes(cast(Any, None), cast(Any, None), cast(Any, tools))
    task = asyncio.create_task(lanes._read(0, readings))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert readings.open == []


async def test_a_topic_is_read_while_its_owner_has_webhooks_and_no_other(readings: Readings) -> None:
    registry = Registry()
    async with reading(OWN, registry, readings):
        await asyncio.sleep(0)
        assert readings.begun == []
        registry.change("acme", "globex")
        await readings.until("acme", "globex")
        registry.change("globex", "initech")
        await readings.until("globex", "initech")
        registry.change("acme")
        await readings.until("acme")
        assert sorted(readings.begun) == ["acme", "acme", "globex", "initech"]
    async with reading(ONE, registry, readings):
        await readings.until(ALL_TENANTS)
        registry.change("acme", "globex")
        await readings.until(ALL_TENANTS)
        registry.change()
        await readings.until()


@pytest.mark.parametrize("error", [DependencyUnavailable("topic set on Kafka"), ValueError("a mistake of ours")])
async def test_a_topic_that_is_refused_holds_up_nobody_else_and_is_tried_again(readings: Readings, error: Exception) -> None:
    readings.failing["acme"] = error
    async with reading(OWN, Registry("acme", "globex"), readings):
        await readings.until("globex")
        readings.failing.clear()
        await readings.until("acme", "globex")
        assert readings.begun.count("globex") == 1


async def test_a_lane_that_is_lost_is_read_no_more(readings: Readings) -> None:
    readings.failing["acme"] = LaneLost()
    async with reading(OWN, Registry("acme", "globex"), readings) as task:
        with pytest.raises(BaseExceptionGroup) as lost:
            await task
        assert lost.group_contains(LaneLost) if hasattr(lost, "group_contains") else lost.value.subgroup(LaneLost)
