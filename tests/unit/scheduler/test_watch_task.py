"""A watcher is handed what its process commits, and reads what it was not handed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import cast

import pytest

from services.common.ids import new_id
from services.scheduler.domain.ports import TaskReader
from services.scheduler.domain.task import State, StoredEvent
from services.scheduler.domain.wake import Wake, bucket_of
from services.scheduler.usecases.hub import Hub
from services.scheduler.usecases.watch_task import WatchTask
from tests.support.runs import a_run

TASK, TENANT = new_id(), "acme"


def event(number: int, change: str = "progress", size: int = 1) -> StoredEvent:
    return StoredEvent(number, f"guildmesh.task.{change}.v1", b"x" * size)


class Log:
    """The log of one task, which counts how often it is read."""

    def __init__(self) -> None:
        self.log = [event(1, "created")]
        self.state = State.RUNNING
        self.reads = 0

    async def events(self, tenant: str, task: str, after: int, limit: int) -> tuple[State | None, int, Sequence[StoredEvent]]:
        self.reads += 1
        return self.state, len(self.log), self.log[after : after + limit]


class World:
    def __init__(self) -> None:
        self.hub = Hub("me")
        self.table = Log()
        self.watch = WatchTask(cast(TaskReader, self.table), self.hub, poll_seconds=60.0)
        self.seen: list[int] = []
        self.arrived = asyncio.Event()

    def commit(self, *events: StoredEvent, handed: Sequence[StoredEvent] | None = None, tenant: str = TENANT) -> None:
        """A commit of this process: the table has the events, the wake carries `handed`."""
        self.table.log += events
        carried = [((tenant, TASK), each, a_run(task_id=TASK)) for each in (events if handed is None else handed)]
        self.hub.wake(Wake(buckets={bucket_of(TASK)}, events=carried))

    async def follow(self) -> None:
        async with aclosing(self.watch.execute(TENANT, TASK, 0)) as events:
            async for each in events:
                self.seen.append(each.number)
                self.arrived.set()

    async def until(self, number: int) -> None:
        async with asyncio.timeout(5):
            while not self.seen or self.seen[-1] < number:
                self.arrived.clear()
                await self.arrived.wait()
        # It waits again.
        await asyncio.sleep(0.01)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    following = asyncio.create_task(world.follow())
    await world.until(1)
    assert world.table.reads == 1
    yield world
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_what_this_process_commits_is_not_read_again(world: World) -> None:
    assert (TENANT, TASK) in world.hub.watched
    world.commit(event(2))
    world.commit(event(3), event(4, "completed"))
    await world.until(4)
    assert (world.seen, world.table.reads) == ([1, 2, 3, 4], 1)
    assert not world.hub.watched


async def test_what_another_process_commits_is_read(world: World) -> None:
    world.commit(event(2), event(3), handed=[])
    await world.until(3)
    assert (world.seen, world.table.reads) == ([1, 2, 3], 2)


async def test_a_gap_is_filled_from_the_table(world: World) -> None:
    # Number 2 was another process's.
    world.commit(event(2), event(3), handed=[event(3)])
    await world.until(3)
    world.commit(event(4))
    await world.until(4)
    assert (world.seen, world.table.reads) == ([1, 2, 3, 4], 2)


async def test_what_comes_in_another_order_or_twice_is_told_once_and_in_order(world: World) -> None:
    world.commit(event(2), event(3), handed=[event(3), event(2), event(2)])
    await world.until(3)
    assert (world.seen, world.table.reads) == ([1, 2, 3], 2)


async def test_a_slow_watcher_is_not_handed_everything(world: World) -> None:
    many = [event(number, size=100_000) for number in range(2, 12)]
    world.commit(*many)
    await world.until(11)
    assert (world.seen, world.table.reads) == (list(range(1, 12)), 2)


async def test_another_tenant_hears_nothing(world: World) -> None:
    world.table.state = State.RUNNING
    world.commit(handed=[event(2)], tenant="globex")
    await asyncio.sleep(0.01)
    assert world.seen == [1]
