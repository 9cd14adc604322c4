"""RunTask waits for the end of a task, and reads the task only when somebody else may have ended it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import pytest

from services.common.errors import Unavailable
from services.common.ids import new_id
from services.scheduler.domain.ports import TaskReader
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import NewTask, State, StoredEvent, Task
from services.scheduler.domain.wake import Wake, bucket_of
from services.scheduler.usecases.create_task import CreateTask
from services.scheduler.usecases.hub import Hub
from services.scheduler.usecases.run_task import RunTask
from tests.support.runs import NOW, a_run


class World:
    """A scheduler whose tables hold one task."""

    def __init__(self) -> None:
        self.hub = Hub("me")
        self.new = NewTask(new_id(), "acme", "ada", b"spec", "x", context=b"input")
        self.kept = Task(self.new.task_id, "acme", b"spec", NOW)
        self.reads = 0
        self.away = False
        self.use_case = RunTask(cast(CreateTask, self), cast(TaskReader, self), self.hub, poll_seconds=60.0)

    async def execute(self, task: NewTask) -> Task:
        """CreateTask."""
        return self.kept

    async def get(self, tenant_id: str, task_id: str) -> Task | None:
        """TaskReader."""
        assert (tenant_id, task_id) == ("acme", self.kept.task_id)
        self.reads += 1
        if self.away:
            raise Unavailable("The database is away.")
        return self.kept

    async def begin(self, wait: float = 60.0) -> asyncio.Task[Task]:
        """Calls RunTask and lets it wait."""
        call = asyncio.create_task(self.use_case.execute(self.new, timedelta(seconds=wait)))
        await asyncio.sleep(0.01)
        assert self.hub.watched
        return call

    def tell(self, run: Run, change: str, origin: str = "me") -> None:
        """A commit of this process, or of another."""
        key = (run.tenant_id, run.task_id)
        events = [(key, StoredEvent(run.next_event_number - 1, f"guildmesh.task.{change}.v1", b""), run)]
        wake = Wake(buckets={bucket_of(run.task_id)}, origin=origin, events=events if origin == "me" else [])
        self.hub.wake(wake) if origin == "me" else self.hub.notified(wake)

    def run(self, **fields: Any) -> Run:
        return a_run(task_id=self.kept.task_id, **fields)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    assert not world.hub.watched


async def test_an_end_that_this_process_commits_is_not_read(world: World) -> None:
    call = await world.begin()
    run = world.run(state=State.RUNNING, attempt=1, next_event_number=3, start_time=NOW)
    world.tell(run, "started")
    await asyncio.sleep(0.01)
    assert not call.done()
    run.complete(b"result", NOW)
    run.next_event_number = 4
    world.tell(run, "completed")
    task = await call
    assert (task.state, task.result, task.attempt, task.last_event_number) == (State.COMPLETED, b"result", 1, 3)
    assert (task.spec, task.create_time, task.start_time, task.finish_time, task.progress) == (b"spec", NOW, NOW, NOW, 1.0)
    assert world.reads == 0


async def test_an_end_that_another_process_commits_is_read(world: World) -> None:
    call = await world.begin()
    world.tell(world.run(), "started", origin="other")
    await asyncio.sleep(0.01)
    assert not call.done()
    world.kept = Task(world.new.task_id, "acme", b"spec", NOW, state=State.FAILED, error_reason="BROKEN")
    world.tell(world.run(), "failed", origin="other")
    assert (await call).error_reason == "BROKEN"
    assert world.reads == 2


async def test_after_the_wait_the_task_is_given_as_it_is(world: World) -> None:
    call = await world.begin(0.05)
    assert (await call).state is State.PENDING
    assert world.reads == 1


async def test_a_repeat_waits_for_the_task_of_the_first_call(world: World) -> None:
    world.kept = Task(new_id(), "acme", b"spec", NOW, state=State.COMPLETED, result=b"first")
    assert (await world.use_case.execute(world.new, timedelta(seconds=60))).result == b"first"


async def test_a_database_that_restarts_is_waited_for(world: World) -> None:
    call = await world.begin()
    world.away = True
    world.tell(world.run(), "started", origin="other")
    await asyncio.sleep(0.01)
    assert not call.done()
    world.tell(world.run(state=State.CANCELLED), "cancelled")
    assert (await call).state is State.CANCELLED


async def test_a_process_that_stops_answers_at_once(world: World) -> None:
    call = await world.begin()
    await world.use_case.drain()
    assert (await call).state is State.PENDING
