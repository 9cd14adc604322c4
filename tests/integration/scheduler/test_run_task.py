"""RunTask over the wire: one call gives the result."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2

from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique, value
from tests.support.service import metadata, running


async def run(scheduler: Scheduler, *, wait: float | None = None, **fields: str) -> task_pb2.Task:
    request = pb.RunTaskRequest(task=task_pb2.Task(description="do it", kind=scheduler.kind), **fields)
    if wait is not None:
        request.wait.FromMilliseconds(int(wait * 1000))
    return await scheduler.stub.RunTask(request, metadata=metadata(scheduler.ada))


async def test_one_call_gives_the_result(scheduler: Scheduler) -> None:
    async with scheduler.worker() as worker:
        call = asyncio.create_task(run(scheduler))
        lease = await worker.lease()
        await worker.complete(lease, {"words": 3})
        task = await call
    assert (task.task_id, task.status, task.result) == (lease.task.task_id, "completed", value({"words": 3}))
    assert task == await scheduler.get(task.task_id)


async def test_a_failure_is_given_as_a_result_is(scheduler: Scheduler) -> None:
    async with scheduler.worker() as worker:
        call = asyncio.create_task(run(scheduler))
        await worker.fail(await worker.lease(), retryable=False)
        task = await call
    assert (task.status, task.error.reason) == ("failed", "BROKEN")
    assert task == await scheduler.get(task.task_id)


async def test_the_task_goes_on_when_the_wait_is_over_or_the_caller_has_gone(scheduler: Scheduler) -> None:
    task = await run(scheduler, wait=0.05)
    assert task.status == "pending"
    gone = asyncio.create_task(run(scheduler, request_id=(request_id := unique("request"))))
    await asyncio.sleep(0.3)
    gone.cancel()
    async with scheduler.worker() as worker:
        leases = [await worker.lease(), await worker.lease()]
        for lease in leases:
            await worker.complete(lease)
    # A repeat gives the end of the same task.
    again = await run(scheduler, request_id=request_id)
    assert (again.status, again.task_id) == ("completed", leases[1].task.task_id)


async def test_a_task_that_another_replica_ends_is_told(scheduler: Scheduler, scheduler_settings: MakeSettings) -> None:
    async with running(open_service, scheduler_settings(), scheduler.server.tls) as second:
        other = Scheduler(second, scheduler.ada)
        other.kind = scheduler.kind
        async with other.worker() as worker:
            call = asyncio.create_task(run(scheduler))
            await worker.complete(await worker.lease(), "elsewhere")
            assert (await call).result == value("elsewhere")


async def test_nobody_waits_for_longer_than_a_minute(scheduler: Scheduler) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await run(scheduler, wait=61)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "wait" in (refused.value.details() or "")
