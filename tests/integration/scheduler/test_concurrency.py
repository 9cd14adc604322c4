"""How many tasks a worker process runs at once (requirement row 23)."""

from __future__ import annotations

import asyncio

import pytest
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2
from guildmesh_client.worker import Task, Worker

from tests.integration.scheduler.conftest import Scheduler
from tests.support.service import metadata


async def test_a_worker_with_a_hundred_places_leaves_the_101st_task_to_others(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_CONCURRENT_TASKS", "100")
    full, go_on, started = asyncio.Event(), asyncio.Event(), asyncio.Queue[str]()
    worker = Worker(channel=scheduler.channel, metadata=metadata(scheduler.ada), drain_seconds=0.0)

    @worker.task(scheduler.kind)
    async def hold(task: Task) -> None:
        started.put_nowait(task.task_id)
        if started.qsize() == 100:
            full.set()
        await go_on.wait()

    call = pb.BatchCreateTasksRequest(
        requests=[
            pb.CreateTaskRequest(task=task_pb2.Task(description=f"task {number}", kind=scheduler.kind)) for number in range(101)
        ]
    )
    answer = await scheduler.stub.BatchCreateTasks(call, metadata=metadata(scheduler.ada))
    ids = [result.task_id for result in answer.results]
    working = asyncio.create_task(worker.run())
    async with asyncio.timeout(30):
        await full.wait()
        taken = {started.get_nowait() for _ in range(100)}
        (left,) = set(ids) - taken
        # Somebody else is there for it: so it was free all the time, and this worker would have had it first.
        async with scheduler.worker(1) as other:
            lease = await other.lease()
            assert (lease.task.task_id, lease.task.attempt) == (left, 1)
            assert (worker.running, started.empty()) == (100, True)
            # Given back, it goes to the first worker as soon as that one has a place.
            await other.fail(lease, retryable=True)
        go_on.set()
        assert await started.get() == left
    worker.stop()
    await working
