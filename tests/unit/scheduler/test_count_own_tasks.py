"""Counts for tenants: one look at the tasks for all who ask."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from services.scheduler.domain.task import State
from services.scheduler.usecases import count_own_tasks
from services.scheduler.usecases.count_own_tasks import CountOwnTasks


class Store:
    """Counts of two tenants; tells how often it was asked, and takes its time."""

    def __init__(self, clock: Clock) -> None:
        self.looks = 0
        self.seconds = 0.0
        self._clock = clock

    async def count(self) -> Mapping[str, Mapping[tuple[str, State], int]]:
        self.looks += 1
        self._clock.now += self.seconds
        await asyncio.sleep(0)
        return {"a": {("code", State.RUNNING): self.looks}, "b": {("code", State.PENDING): 7}}


class Clock:
    """The time of the use case."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(count_own_tasks, "time", clock)
    return clock


async def test_many_who_ask_at_once_cost_one_look(clock: Clock) -> None:
    store = Store(clock)
    count = CountOwnTasks(store)
    answers = await asyncio.gather(*(count.execute(tenant) for tenant in ("a", "b", "c") * 100))
    assert store.looks == 1
    assert answers[0]["code"]["running"] == 1
    assert answers[1]["code"] == {"scheduled": 0, "blocked": 0, "pending": 7, "running": 0, "waiting": 0}
    assert answers[2] == {}


@pytest.mark.parametrize(("seconds", "fresh"), [(0.01, 2.0), (0.5, 10.0)])
async def test_the_longer_a_look_takes_the_longer_its_counts_are_told(clock: Clock, seconds: float, fresh: float) -> None:
    store = Store(clock)
    store.seconds = seconds
    count = CountOwnTasks(store)
    await count.execute("a")
    clock.now += fresh - 0.01
    assert (await count.execute("a"))["code"]["running"] == 1
    clock.now += 0.02
    assert (await count.execute("a"))["code"]["running"] == 2
