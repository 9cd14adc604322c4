"""The tail of the events topic, its pages, and the places that watchers are told, over a topic in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import DependencyUnavailable
from services.scheduler.domain.errors import InvalidFilter, InvalidResumeToken, WatchPositionExpired
from services.scheduler.domain.event_topic_ports import Record
from services.scheduler.domain.ports import TaskReader
from services.scheduler.domain.positions import Positions, decode_positions, encode_positions
from services.scheduler.domain.published import EventFilter, Published, parse_event_filter
from services.scheduler.domain.task import State
from services.scheduler.usecases import event_tail, topic_pages
from services.scheduler.usecases.event_tail import EventTail
from services.scheduler.usecases.topic_pages import TopicPages
from services.scheduler.usecases.watch_tasks import WatchTasks

OFFSETS = st.lists(st.integers(0, 2**62), min_size=16, max_size=16).map(tuple)
START: Positions = (0,) * 16
SMALL = 100


@given(OFFSETS)
def test_a_place_comes_back_from_its_token(positions: Positions) -> None:
    token = encode_positions(positions)
    assert decode_positions(token) == positions
    assert token.replace("-", "").replace("_", "").isalnum()


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidResumeToken):
        decode_positions(token)


@pytest.mark.parametrize("change", [lambda token: token[:-1], lambda token: token + "AA", lambda token: "AA" + token])
def test_a_token_that_was_changed_is_refused(change: object) -> None:
    with pytest.raises(InvalidResumeToken):
        decode_positions(change(encode_positions(range(100, 116))))  # type: ignore[operator]


def an_event(
    offset: int = 0, *, number: int = 1, partition: int = 3, task: str = "t", size: int = 1, **fields: object
) -> Published:
    values: dict[str, object] = {"type": "completed", "state": State.COMPLETED, "queue": "default", "kind": "k", "attempt": 1}
    values |= {"actor": "w", "parent_task_id": ""} | fields
    return Published(3, offset, b"x" * size, task, number, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "meets"),
    [
        ("", True),
        ("type = completed", True),
        ("type = guildmesh.task.completed.v1 AND state = completed", True),
        ("type != completed", False),
        ("state = TASK_STATE_FAILED", False),
        ("queue = default AND kind = k AND actor = w", True),
        ("queue = other", False),
        ("attempt >= 1 AND attempt < 2", True),
        ("attempt > 1", False),
    ],
)
def test_a_filter_says_which_events_are_wanted(text: str, meets: bool) -> None:
    assert parse_event_filter(text).meets(an_event()) is meets


def test_an_event_that_leads_to_no_state_meets_no_comparison_with_one() -> None:
    assert not parse_event_filter("state != FAILED").meets(an_event(type="output", state=None))


def test_what_only_a_task_has_is_left_to_the_task() -> None:
    wanted = parse_event_filter("labels.team = red AND type = completed")
    assert [condition.field for condition in wanted.of_tasks] == ["labels.team"]
    assert wanted.meets(an_event())


@pytest.mark.parametrize("text", ["type = gone", "finish_time > 3", "labels.a != b", "task_id = what", "attempt = x"])
def test_a_filter_that_cannot_be_used_says_why(text: str) -> None:
    with pytest.raises(InvalidFilter):
        parse_event_filter(text)


class Topic:
    """A topic in memory: one tenant, one list of events, from `begin` on."""

    def __init__(self) -> None:
        self.events: list[Published] = []
        self.begin = 0
        self.away = False
        self.reads = 0
        self.more = asyncio.Event()

    def publish(self, *events: Published) -> None:
        self.events += events
        self.more.set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Reader]:
        if self.away:
            raise DependencyUnavailable("Kafka cluster")
        yield Reader(self)

    def parse(self, record: Record) -> Published:
        return next(event for event in self.events if event.offset == record.offset)


class Reader:
    """Reads partition 3, where all events are."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.position = 0

    async def bounds(self) -> tuple[Positions, Positions]:
        return place(self.topic.begin), place(len(self.topic.events))

    async def at(self, moment: datetime) -> Positions:
        return place(self.topic.begin)

    def seek(self, positions: Positions) -> None:
        self.position = positions[3]

    async def read(self, most: int, seconds: float) -> tuple[Sequence[Record], Positions]:
        topic = self.topic
        topic.reads += 1
        if topic.away:
            raise DependencyUnavailable("Kafka cluster")
        if self.position < topic.begin:
            raise WatchPositionExpired
        if self.position >= len(topic.events):
            topic.more.clear()
            try:
                await asyncio.wait_for(topic.more.wait(), min(seconds, 0.01))
            except TimeoutError:
                return [], place(self.position)
        found = topic.events[self.position : self.position + most]
        self.position += len(found)
        return [Record(3, event.offset, "acme", event.value) for event in found], place(self.position)


def place(offset: int) -> Positions:
    return (0, 0, 0, offset) + (0,) * 12


class World:
    def __init__(self) -> None:
        self.topic = Topic()
        self.tail, self.pages = EventTail(self.topic), TopicPages(self.topic)
        self.watch = WatchTasks(self.tail, self.pages, self.topic, cast(TaskReader, self), 5.0)
        self.asked: list[set[str]] = []

    async def meeting(self, tenant: str, task_ids: set[str], conditions: object) -> list[str]:
        self.asked.append(set(task_ids))
        return [task_id for task_id in task_ids if task_id.startswith("red")]

    async def take(self, number: int, start: Positions | None = START, wanted: EventFilter | None = None) -> list[int]:
        """The offsets of so many events from a place on."""
        taken: list[int] = []
        async with asyncio.timeout(5), aclosing(self.watch.execute("acme", wanted or EventFilter(), start, None)) as stream:
            async for seen in stream:
                if seen.event is not None:
                    taken.append(seen.event.offset)
                    assert seen.positions[3] == seen.event.offset + 1
                if len(taken) == number:
                    return taken
        return taken


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.tail.close()
    await world.pages.close()


async def test_what_was_published_a_moment_ago_is_held_and_from_now_on_is_behind_it(world: World) -> None:
    world.topic.publish(*(an_event(offset, task=f"t{offset}") for offset in range(5)))
    assert await world.take(5) == [0, 1, 2, 3, 4]
    assert await world.take(2, place(3)) == [3, 4]
    waiting = asyncio.create_task(world.take(1, None))
    await asyncio.sleep(0.05)
    world.topic.publish(an_event(5, task="t5"))
    assert await waiting == [5]


async def test_a_stretch_that_is_published_again_is_handed_on_once(world: World) -> None:
    waiting = asyncio.create_task(world.take(4))
    await asyncio.sleep(0.05)
    line = [(1, 0), (2, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    world.topic.publish(*(an_event(offset, number=number) for number, offset in line))
    assert await waiting == [0, 1, 4, 5]


async def test_who_is_behind_reads_the_topic_page_by_page_and_then_what_is_held(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_tail, "_MOST_RECENT_BYTES", 10 * SMALL)
    monkeypatch.setattr(topic_pages, "_MOST_BYTES", 7 * SMALL)
    world.topic.publish(*(an_event(offset, task=f"t{offset}", size=SMALL) for offset in range(100)))
    assert await world.take(100) == list(range(100))
    assert world.topic.reads > 90 / 7


async def test_a_watcher_that_a_channel_left_behind_catches_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_tail, "_MOST_HELD", 5)
    taken: list[int] = []
    async with asyncio.timeout(5), aclosing(world.watch.execute("acme", EventFilter(), START, None)) as stream:
        assert (await anext(stream)).event is None
        for first in range(0, 60, 20):
            world.topic.publish(*(an_event(offset, task=f"t{offset}") for offset in range(first, first + 20)))
            while not taken or taken[-1] < first + 19:
                seen = await anext(stream)
                if seen.event is not None:
                    taken.append(seen.event.offset)
                await asyncio.sleep(0)
    assert taken == list(range(60))


async def test_each_task_is_looked_at_once(world: World) -> None:
    tasks = ["red1", "blue", "red1", "red2", "blue"]
    world.topic.publish(*(an_event(offset, number=offset + 1, task=task) for offset, task in enumerate(tasks)))
    assert await world.take(3, wanted=parse_event_filter("labels.team = red")) == [0, 2, 3]
    assert world.asked == [{"red1", "blue", "red2"}]


async def test_a_place_that_is_not_kept_or_was_never_reached_is_refused(world: World) -> None:
    world.topic.publish(*(an_event(offset) for offset in range(5)))
    world.topic.begin = 3
    for start in (place(2), place(99)):
        with pytest.raises(WatchPositionExpired):
            await world.take(1, start)


async def test_a_stream_outlives_an_absence_of_kafka(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = asyncio.create_task(world.take(2))
    await asyncio.sleep(0.05)
    world.topic.publish(an_event(0, task="t0"))
    world.topic.away = True
    await asyncio.sleep(0.05)
    world.topic.publish(an_event(1, task="t1"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    world.topic.away = False
    assert await waiting == [0, 1]


async def test_nothing_is_read_while_nobody_watches(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_tail, "_IDLE_SECONDS", 0.02)
    world.topic.publish(an_event(0))
    assert await world.take(1) == [0]
    assert world.tail._reading is not None
    await asyncio.wait_for(world.tail._reading, 5)
    reads = world.topic.reads
    await asyncio.sleep(0.05)
    assert world.topic.reads == reads
    assert world.tail._channels == {}
    assert await world.take(1) == [0]
