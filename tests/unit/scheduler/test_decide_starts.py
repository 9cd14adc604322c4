"""The replica that decides: what it hears and how, and what it does when something goes wrong. The database is a double here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from services.common.errors import DependencyUnavailable
from services.scheduler.domain.decision import (
    Answer,
    Converted,
    KnownQueues,
    Message,
    Start,
    ToStart,
)
from services.scheduler.domain.fence import EpochOver, Fence, LimitsChanged
from services.scheduler.domain.head import Head, LaneKey, Page, Seen
from services.scheduler.domain.limits import Limits, QueueKey
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.task import Lease, NewTask
from services.scheduler.domain.wake import Wake, decode_decided, encode_decided, everything
from services.scheduler.usecases import decide_starts, keep_queues
from services.scheduler.usecases.decide_starts import DecideStarts, Peer
from services.scheduler.usecases.hub import Hub
from services.scheduler.usecases.new_starts import NewStarts
from tests.support.runs import NOW, a_run

Q: QueueKey = ("*", "q")
LANE = LaneKey("*", "q", "a", "k")
ANY = Demand(None, frozenset({"k"}), frozenset())


class Table:
    """Tasks as the database has them; statements fail as they are told to."""

    def __init__(self) -> None:
        self.waiting: dict[str, int] = {}
        """attempts so far of what waits."""
        self.running: dict[str, int] = {}
        self.limits: dict[QueueKey, Limits] = {Q: Limits(max_running=2)}
        self.epoch = self.version = 0
        self.looked: list[list[str]] = []
        self.trouble: list[Exception] = []
        self.lost_answer: Exception | None = None
        self.settled = True
        self.converted: list[str] = []
        """tasks that a walk through all of them finds, once."""

    def _head(self, task_id: str, attempt: int) -> Head:
        return Head(task_id, LANE, None, (-5, int(task_id[-4:])), attempt)

    async def take_over(self, owner: str) -> int | None:
        self.epoch += 1
        return self.epoch

    async def everything(self, window: int) -> tuple[Sequence[Seen], Sequence[Page]]:
        running = [Seen(self._head(*item), True, False) for item in self.running.items()]
        heads = [self._head(*item) for item in self.waiting.items()]
        return running, [Page(LANE, heads, False)] if heads else []

    async def look(self, task_ids: Sequence[str]) -> Sequence[Seen]:
        self.looked.append(sorted(task_ids))
        found = [Seen(self._head(t, a), False, True) for t, a in self.waiting.items() if t in task_ids]
        return found + [Seen(self._head(t, a), True, False) for t, a in self.running.items() if t in task_ids]

    async def pages(self, lanes: Any, window: int) -> Sequence[Page]:
        return []

    async def of_keys(self, keys: Any, most: int) -> Sequence[Sequence[Head]]:
        return []

    def limit(self, limits: Limits) -> None:
        self.limits[Q] = limits
        self.version += 1

    async def start(self, fence: Fence, starts: Sequence[ToStart]) -> Sequence[Lease]:
        if self.trouble:
            raise self.trouble.pop(0)
        if fence.epoch != self.epoch:
            raise EpochOver
        if fence.limits_version != self.version:
            raise LimitsChanged
        leases = []
        for start in starts:
            if start.task_id in self.waiting:
                attempt = self.running[start.task_id] = self.waiting.pop(start.task_id) + 1
                run = a_run(task_id=start.task_id, attempt=attempt)
                leases.append(Lease(run, b"", None, NOW, run.deadline - NOW if run.deadline else NOW - NOW))
        if self.lost_answer is not None:
            error, self.lost_answer = self.lost_answer, None
            raise error
        return leases

    async def started(self, starts: Sequence[Start]) -> Sequence[Lease]:
        return []

    async def queues(self) -> KnownQueues:
        return KnownQueues(dict(self.limits), frozenset(self.limits), dict.fromkeys(self.limits, self.settled), self.version)

    async def decide_on(self, *_: object) -> None: ...

    async def settle(self, *_: object) -> None:
        self.settled = True

    async def release(self, *_: object) -> None: ...

    async def convert(self, after: str) -> Converted:
        found, self.converted = self.converted, []
        return Converted(None, found, [])


def task(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012d}"


class World:
    def __init__(self, table: Table, hub: Hub, decide: DecideStarts) -> None:
        self.table, self.hub, self.decide = table, hub, decide
        self.answers: list[Answer] = []
        self.peer = Peer(self.answers.append, here=True)
        decide.join(self.peer)
        decide.take(self.peer, Message(opened=[(1, Demand(None, frozenset({"k"}), frozenset()))]))

    @property
    def started(self) -> list[str]:
        return [start.task_id for answer in self.answers for start in answer.starts]

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - the turns are another task's
                await asyncio.sleep(0.005)

    def add(self, *numbers: int, tell: bool = True) -> None:
        """Tasks are created by a commit of this process."""
        ids = [task(number) for number in numbers]
        self.table.waiting |= dict.fromkeys(ids, 0)
        if tell:
            self.hub.wake(Wake(decided=ids, origin="me"))

    def end(self, *numbers: int) -> None:
        ids = [task(number) for number in numbers]
        for task_id in ids:
            del self.table.running[task_id]
        self.hub.wake(Wake(over=ids, origin="me"))

    def echo(self, *numbers: int) -> None:
        """What PostgreSQL tells of a commit of this process."""
        for payload in encode_decided(Wake(decided=[task(number) for number in numbers], origin="me"), over=True):
            self.hub.notified(decode_decided(payload))


@asynccontextmanager
async def deciding(lease_seconds: float = 30.0) -> AsyncIterator[World]:
    table, hub = Table(), Hub("me")
    decide = DecideStarts("me", table, table, hub, lease_seconds, 12.0)
    world = World(table, hub, decide)
    running = asyncio.create_task(decide.run())
    decide.begin()
    await world.until(lambda: decide.deciding)
    try:
        yield world
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_it_says_how_many_could_start_starts_them_and_gives_back_what_it_cannot_use() -> None:
    async with deciding() as world:
        world.add(1, 2, 3)
        await world.until(lambda: any(answer.wanted == [(1, 2, 5)] for answer in world.answers))
        world.decide.take(world.peer, Message(offers=[(1, "w", 5)]))
        await world.until(lambda: any(answer.returned for answer in world.answers))
        assert world.started == [task(1), task(2)]
        assert [answer.returned for answer in world.answers if answer.returned] == [[(1, "w", 3)]]
        world.end(1)
        await world.until(lambda: any(answer.wanted == [(1, 1, 5)] for answer in world.answers))
        world.decide.take(world.peer, Message(offers=[(1, "w", 1)]))
        await world.until(lambda: world.started[2:] == [task(3)])


async def test_what_only_postgres_tells_of_is_looked_at_whatever_this_process_has_told_before() -> None:
    async with deciding() as world:
        # The notification of a commit may come before the process has heard of it by itself.
        world.echo(1)
        world.add(1)
        await world.until(lambda: world.decide.startable(ANY) == 1)
        world.decide.take(world.peer, Message(offers=[(1, "w", 1)]))
        await world.until(lambda: world.started == [task(1)])
        # The task waits again, by a commit whose answer was lost: nobody tells of it within the process.
        world.table.waiting[task(1)] = world.table.running.pop(task(1))
        world.echo(1)
        await world.until(lambda: world.decide.startable(ANY) == 1)


async def test_limits_are_said_to_be_in_force_when_it_knows_of_all_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = SimpleNamespace(monotonic=lambda: time.monotonic() * 1000)
    monkeypatch.setattr(keep_queues, "time", quick)
    monkeypatch.setattr(decide_starts, "_LOOK_SECONDS", 0.005)
    # As many as it looks at in a few turns.
    monkeypatch.setattr(decide_starts, "_MOST_LOOKED_AT", 2)
    async with deciding() as world:
        before = range(1, 8)
        world.table.limits[Q] = Limits(max_running=20)
        world.table.settled = False
        world.table.running = {task(number): 1 for number in before}
        world.table.converted = list(world.table.running)
        looked: list[int] = []

        async def settle(*_: object) -> None:
            looked.append(len({task_id for asked in world.table.looked for task_id in asked}))
            world.table.settled = True

        monkeypatch.setattr(world.table, "settle", settle)
        # Whoever decides next looks at the list anew.
        world.decide.doubt()
        world.table.running = {}
        await world.until(lambda: world.table.settled)
        assert looked == [7]


@pytest.mark.parametrize("error", [EpochOver(), DependencyUnavailable("database"), RuntimeError("a fault of ours")])
async def test_after_a_start_that_failed_it_begins_a_new_epoch_and_the_slots_come_back(error: Exception) -> None:
    async with deciding() as world:
        epoch = world.table.epoch
        world.table.trouble.append(error)
        world.add(1)
        world.decide.take(world.peer, Message(offers=[(1, "w", 1)]))
        await world.until(lambda: any(answer.returned == [(1, "w", 1)] for answer in world.answers))
        await world.until(lambda: world.table.epoch > epoch and world.decide.deciding)
        world.decide.take(world.peer, Message(offers=[(1, "w", 1)]))
        await world.until(lambda: world.started == [task(1)])


async def test_a_start_whose_answer_was_lost_counts() -> None:
    async with deciding() as world:
        world.table.lost_answer = DependencyUnavailable("database")
        world.add(1, 2, 3)
        world.decide.take(world.peer, Message(offers=[(1, "w", 1)]))
        await world.until(lambda: world.table.running)
        epoch = world.table.epoch
        await world.until(lambda: world.table.epoch > epoch and world.decide.deciding)
        world.decide.take(world.peer, Message(offers=[(1, "w", 3)]))
        await world.until(lambda: world.started)
        await world.until(lambda: any(answer.returned == [(1, "w", 2)] for answer in world.answers))
        assert (world.started, len(world.table.running)) == ([task(2)], 2)


async def test_limits_that_have_changed_are_read_and_decided_by() -> None:
    async with deciding() as world:
        world.table.limit(Limits(max_running=1))
        world.add(1, 2)
        world.decide.take(world.peer, Message(offers=[(1, "w", 2)]))
        await world.until(lambda: any(answer.wanted == [(1, 1, 5)] for answer in world.answers))
        world.decide.take(world.peer, Message(offers=[(1, "w", 2)]))
        await world.until(lambda: world.started)
        await world.until(lambda: any(answer.returned == [(1, "w", 1)] for answer in world.answers))
        assert world.started == [task(1)]


async def test_when_notifications_were_lost_everything_is_read_behind_a_new_epoch() -> None:
    async with deciding() as world:
        epoch = world.table.epoch
        world.add(1, tell=False)
        world.hub.wake(everything())
        world.decide.take(world.peer, Message(offers=[(1, "w", 1)]))
        await world.until(lambda: world.table.epoch > epoch and world.decide.deciding)
        world.decide.take(world.peer, Message(offers=[(1, "w", 1)]))
        await world.until(lambda: world.started == [task(1)])


async def test_who_is_not_the_owner_any_more_decides_nothing() -> None:
    async with deciding() as world:
        world.decide.end()
        await world.until(lambda: not world.decide.deciding)
        world.add(1)
        world.decide.take(world.peer, Message(offers=[(1, "w", 1)]))
        for _ in range(20):
            await asyncio.sleep(0)
        assert (world.started, list(world.table.waiting)) == ([], [task(1)])


async def test_an_end_of_another_process_frees_its_slot() -> None:
    async with deciding() as world:
        world.add(1, 2, 3)
        world.decide.take(world.peer, Message(offers=[(1, "w", 2)]))
        await world.until(lambda: len(world.started) == 2)
        del world.table.running[task(1)]
        (payload,) = encode_decided(Wake(over=[task(1)], origin="other"), over=True)
        world.hub.notified(decode_decided(payload))
        await world.until(lambda: world.decide.startable(ANY) == 1)


async def test_an_end_that_comes_in_the_middle_of_a_turn_outlives_what_the_turn_has_read_before() -> None:
    async with deciding() as world:
        reading, go_on = asyncio.Event(), asyncio.Event()

        async def look(task_ids: Sequence[str]) -> Sequence[Seen]:
            found = await Table.look(world.table, task_ids)
            reading.set()
            await go_on.wait()
            return found

        world.table.look = look  # type: ignore[method-assign]
        world.table.running = {task(1): 1, task(2): 1}
        world.hub.wake(Wake(decided=[task(1), task(2)], origin="other"))
        await reading.wait()
        world.end(1)
        go_on.set()
        # One of two slots is free: the other task still runs.
        world.add(3, 4)
        await world.until(lambda: world.decide.startable(ANY) == 1)


async def test_a_new_task_starts_at_once_as_long_as_limits_and_those_who_wait_leave_room() -> None:
    async with deciding() as world:
        assert world.decide.fence == Fence(world.table.epoch, 0)
        first = world.decide.begin_new(LANE, task(1), None, 5)
        assert first is not None
        world.add(2)
        await world.until(lambda: world.decide.startable(ANY) == 1)
        # Of two slots one is taken and one is for the task that waits.
        assert world.decide.begin_new(LANE, task(3), None, 5) is None
        world.decide.give_back(first)
        assert world.decide.begin_new(LANE, task(4), None, 5) is not None


async def test_when_it_is_not_known_whether_a_new_task_has_started_a_new_epoch_finds_out() -> None:
    async with deciding() as world:
        epoch = world.table.epoch
        assert world.decide.begin_new(LANE, task(1), None, 5) is not None
        world.table.running[task(1)] = 1
        world.decide.doubt()
        assert world.decide.fence is None
        await world.until(lambda: world.table.epoch > epoch and world.decide.deciding)
        world.add(2, 3)
        await world.until(lambda: world.decide.startable(ANY) == 1)


async def test_everything_that_runs_is_looked_at_again_some_time_after_a_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever decided before may have ended tasks after they were read, and told nobody."""
    monkeypatch.setattr("services.scheduler.usecases.decide_starts._ALL_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr("services.scheduler.usecases.decide_starts._LOOK_SECONDS", 0.02)
    async with deciding() as world:
        world.table.running = {task(1): 1, task(2): 1}
        world.hub.wake(everything())
        await world.until(lambda: world.decide.deciding)
        world.table.running = {}
        world.add(3, 4)
        await world.until(lambda: world.decide.startable(ANY) == 2)


@pytest.mark.parametrize(("again", "lease"), [(0.05, 30.0), (30.0, 0.05)])
async def test_a_look_does_not_take_a_task_for_ended_whose_creation_is_under_way(
    again: float, lease: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is not there before its commit, but its slot is taken from the decision on."""
    monkeypatch.setattr("services.scheduler.usecases.decide_starts._ALL_AGAIN_SECONDS", again)
    monkeypatch.setattr("services.scheduler.usecases.decide_starts._LOOK_SECONDS", 0.02)
    async with deciding(lease) as world:
        starts = NewStarts(world.decide, world.decide.fence)
        created = NewTask(task(1), "a", "ada", b"", "it", queue="q", kind="k")
        assert starts.begin(0, created, "*")
        world.table.running = {task(2): 1}
        world.hub.wake(Wake(decided=[task(2)], origin="other"))
        await world.until(lambda: world.table.looked.count([task(2)]) > 1)
        assert world.decide.begin_new(LANE, task(3), None, 5) is None
        # Committed, it is as any other.
        starts.settle([], [], [])
        if lease < again:
            await world.until(lambda: world.decide.begin_new(LANE, task(3), None, 5))
