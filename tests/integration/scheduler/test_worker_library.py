"""The Python worker library against a real scheduler."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from guildmesh_client.worker import Task, TaskFailed, Worker, WorkerRefused

from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, value
from tests.support.service import metadata, running


@contextlib.asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
    """Runs a worker for the block, then stops it in order."""
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        worker.stop()
        async with asyncio.timeout(15):
            await asyncio.gather(task, return_exceptions=True)


def a_worker(scheduler: Scheduler, **options: Any) -> Worker:
    return Worker(channel=scheduler.channel, metadata=metadata(scheduler.ada), **options)


async def test_a_function_runs_tasks_and_its_results_are_theirs(scheduler: Scheduler) -> None:
    worker = a_worker(scheduler, concurrency=4)

    @worker.task(scheduler.kind)
    async def double(task: Task) -> Any:
        return {"twice": task.context["number"] * 2}  # type: ignore[operator]

    async with working(worker):
        tasks = [await scheduler.create(context={"number": number}) for number in range(20)]
        for number, task in enumerate(tasks):
            await scheduler.watch(task.task_id)
            assert (await scheduler.get(task.task_id)).result == value({"twice": number * 2})


async def test_a_long_task_keeps_its_lease(scheduler: Scheduler) -> None:
    worker = a_worker(scheduler)

    @worker.task(scheduler.kind)
    async def slow(task: Task) -> Any:
        # Longer than the lease of 2 s: only heartbeats keep it.
        await asyncio.sleep(3)
        return "kept"

    async with working(worker):
        task = await scheduler.create()
        events = await scheduler.watch(task.task_id)
    assert [event.WhichOneof("change") for event in events] == ["created", "started", "completed"]


async def test_failures_tell_their_reason_and_others_are_tried_again(scheduler: Scheduler) -> None:
    worker = a_worker(scheduler)

    @worker.task(scheduler.kind)
    async def fail(task: Task) -> Any:
        if task.attempt == 1:
            raise RuntimeError("a passing trouble")
        raise TaskFailed("TOOL_FAILED", "a lasting one")

    async with working(worker):
        task = await scheduler.create()
        events = await scheduler.watch(task.task_id)
    assert events[2].retried.reason == "WORKER_ERROR"
    assert "a passing trouble" in events[2].retried.message
    assert (events[-1].failed.reason, events[-1].failed.message) == ("TOOL_FAILED", "a lasting one")


async def test_a_step_is_done_once_for_all_attempts(scheduler: Scheduler) -> None:
    worker = a_worker(scheduler)
    done: list[int] = []

    @worker.task(scheduler.kind)
    async def stepwise(task: Task) -> Any:
        async def effect() -> Any:
            done.append(task.attempt)
            return {"rows": 3}

        rows = await task.step("effect", effect)
        if task.attempt == 1:
            raise RuntimeError("after the step")
        return rows

    async with working(worker):
        task = await scheduler.create()
        await scheduler.watch(task.task_id)
    assert done == [1]
    assert (await scheduler.get(task.task_id)).result == value({"rows": 3})


async def test_cancelling_a_task_cancels_its_function(scheduler: Scheduler) -> None:
    worker = a_worker(scheduler)
    started, stopped = asyncio.Event(), asyncio.Event()
    seen: list[Task] = []

    @worker.task(scheduler.kind)
    async def forever(task: Task) -> Any:
        seen.append(task)
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with working(worker):
        task = await scheduler.create()
        async with asyncio.timeout(10):
            await started.wait()
            await scheduler.cancel(task.task_id)
            await stopped.wait()
    assert seen[0].stop_reason == "CANCELLED"


async def test_a_result_that_is_not_json_fails_only_its_task(scheduler: Scheduler) -> None:
    worker = a_worker(scheduler)
    results: dict[str, Callable[[], Any]] = {
        "object": object,
        "nul": lambda: "a\x00b",
        "fine": lambda: "fine",
    }

    @worker.task(scheduler.kind)
    async def give(task: Task) -> Any:
        return results[task.description]()

    async with working(worker):
        tasks = {name: await scheduler.create(name) for name in results}
        for task in tasks.values():
            await scheduler.watch(task.task_id)
    ended = {name: await scheduler.get(task.task_id) for name, task in tasks.items()}
    assert [ended[name].error.reason for name in ("object", "nul")] == ["INVALID_RESULT"] * 2
    assert ended["fine"].result == value("fine")


async def test_a_run_is_stopped_before_its_lease_ends_when_the_scheduler_is_gone(
    scheduler_settings: MakeSettings, scheduler_tls: Any
) -> None:
    stopped_after = asyncio.get_running_loop().create_future()
    started = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(open_service, scheduler_settings(), scheduler_tls))
        scheduler = Scheduler(server)
        worker = a_worker(scheduler, drain_seconds=0.0)

        @worker.task(scheduler.kind)
        async def forever(task: Task) -> Any:
            started.set()
            seconds = 0.0
            try:
                # Counted step by step: while the machine stands still, nobody could have stopped it.
                while True:
                    await asyncio.sleep(0.02)
                    seconds += 0.02
            finally:
                stopped_after.set_result((seconds, task))

        working_task = asyncio.create_task(worker.run())
        await scheduler.create()
        async with asyncio.timeout(10):
            await started.wait()
        # The channel stays, the server goes.
        await server.running.stop()
        async with asyncio.timeout(10):
            seconds, task = await stopped_after
        assert task.stop_reason == "LEASE_ENDED"
        assert seconds < 2.0 + 0.5
        worker.stop()
        async with asyncio.timeout(15):
            await working_task


async def test_a_worker_reconnects_and_tells_again_what_was_not_acknowledged(
    scheduler_settings: MakeSettings, scheduler_tls: Any
) -> None:
    settings = scheduler_settings(lease_seconds=8.0, heartbeat_seconds=1.0)
    async with running(open_service, settings, scheduler_tls) as first:
        scheduler = Scheduler(first)
        port = first.running.port
        worker = a_worker(scheduler)
        go, started = asyncio.Event(), asyncio.Event()

        @worker.task(scheduler.kind)
        async def wait(task: Task) -> Any:
            started.set()
            await go.wait()
            return "told again"

        async with working(worker):
            task = await scheduler.create()
            async with asyncio.timeout(10):
                await started.wait()
            await first.running.stop()
            go.set()
            again = settings.model_copy(update={"port": port})
            async with running(open_service, again, scheduler_tls) as second:
                events = await Scheduler(second, scheduler.ada).watch(task.task_id)
                assert [event.WhichOneof("change") for event in events] == ["created", "started", "completed"]
                worker.stop()


async def test_stopping_lets_running_tasks_end(scheduler: Scheduler) -> None:
    worker = a_worker(scheduler, concurrency=1)
    started: asyncio.Queue[str] = asyncio.Queue()

    @worker.task(scheduler.kind)
    async def short(task: Task) -> Any:
        started.put_nowait(task.task_id)
        await asyncio.sleep(0.3)
        return "ended"

    async with working(worker):
        ids = {(await scheduler.create()).task_id for _ in range(2)}
        async with asyncio.timeout(10):
            running_id = await started.get()
    assert started.empty()
    [waiting_id] = ids - {running_id}
    ended, left = await scheduler.get(running_id), await scheduler.get(waiting_id)
    assert (ended.status, left.status) == ("completed", "pending"), f"{ended}\n{left}"


async def test_a_worker_that_may_not_is_told_so(scheduler: Scheduler) -> None:
    worker = a_worker(scheduler, all_tenants=True)
    worker.task(scheduler.kind)(lambda task: asyncio.sleep(0))
    with pytest.raises(WorkerRefused, match="PERMISSION_DENIED"):
        await worker.run()
