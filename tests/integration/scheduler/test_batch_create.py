"""BatchCreateTasks: each item has its own answer or its own error."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2

from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler
from tests.support.service import metadata, running


def item(scheduler: Scheduler, description: str = "x", request_id: str = "", **fields: Any) -> pb.CreateTaskRequest:
    task = task_pb2.Task(**({"description": description, "kind": scheduler.kind} | fields))
    return pb.CreateTaskRequest(task=task, request_id=request_id)


async def batch(scheduler: Scheduler, *items: pb.CreateTaskRequest) -> list[pb.BatchCreateTasksResult]:
    request = pb.BatchCreateTasksRequest(requests=items)
    return list((await scheduler.stub.BatchCreateTasks(request, metadata=metadata(scheduler.ada))).results)


def reason(result: pb.BatchCreateTasksResult) -> str:
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in result.error.details)
    return info.reason


async def test_every_item_is_created_in_order_and_run(scheduler: Scheduler) -> None:
    results = await batch(scheduler, *(item(scheduler, str(number)) for number in range(250)))
    ids = [result.task_id for result in results]
    assert len(set(ids)) == 250
    assert not any(result.HasField("error") for result in results)
    async with scheduler.worker(credits=250) as worker:
        leases = [await worker.lease() for _ in range(250)]
        assert [lease.task.task_id for lease in leases] == ids
        assert [lease.task.description for lease in leases] == [str(number) for number in range(250)]


async def test_bad_items_fail_alone_and_say_what_single_calls_would(scheduler: Scheduler) -> None:
    good = [item(scheduler, str(number)) for number in range(95)]
    bad = [
        item(scheduler, "no\x00"),
        item(scheduler, ""),
        item(scheduler, queue="reserch"),
        item(scheduler, parent_task_id="01990000-0000-7000-8000-000000000000"),
        item(scheduler, priority=11),
    ]
    results = await batch(scheduler, *good[:50], *bad, *good[50:])
    assert all(result.task_id for result in (*results[:50], *results[55:]))
    refused = results[50:55]
    assert [result.task_id for result in refused] == [""] * 5
    assert [reason(result) for result in refused] == [
        "INVALID_ARGUMENT", "INVALID_ARGUMENT", "QUEUE_NOT_FOUND", "TASK_NOT_FOUND", "INVALID_ARGUMENT",
    ]  # fmt: skip
    assert refused[0].error.code == code_pb2.INVALID_ARGUMENT
    assert "NUL" in refused[0].error.message
    page = await scheduler.stub.ListTasks(pb.ListTasksRequest(page_size=200), metadata=metadata(scheduler.ada))
    assert len(page.tasks) == 95


async def test_one_request_id_is_one_task_in_a_batch_and_beyond(scheduler: Scheduler) -> None:
    first = (await scheduler.create("same", request_id="r1")).task_id
    results = await batch(
        scheduler,
        item(scheduler, "same", "r1"),
        item(scheduler, "other", "r1"),
        item(scheduler, "twin", "r2"),
        item(scheduler, "twin", "r2"),
        item(scheduler, "not a twin", "r2"),
    )
    assert results[0].task_id == first
    assert results[2].task_id == results[3].task_id != ""
    assert [reason(results[place]) for place in (1, 4)] == ["REQUEST_ID_REUSED"] * 2


async def test_500_callers_with_one_request_id_across_three_replicas_make_one_task(
    scheduler_settings: MakeSettings, scheduler_tls: Any
) -> None:
    async with (
        running(open_service, scheduler_settings(), scheduler_tls) as one,
        running(open_service, scheduler_settings(), scheduler_tls) as two,
        running(open_service, scheduler_settings(), scheduler_tls) as three,
    ):
        first = Scheduler(one)
        replicas = [first, Scheduler(two, first.ada), Scheduler(three, first.ada)]
        for replica in replicas:
            replica.kind = first.kind
        request_id = str(uuid.uuid4())
        singles = [replicas[number % 3].create("one", request_id=request_id) for number in range(440)]
        batches = [batch(replicas[n % 3], *(item(first, "one", request_id) for _ in range(5))) for n in range(12)]
        tasks, many = await asyncio.gather(asyncio.gather(*singles), asyncio.gather(*batches))
        assert len({task.task_id for task in tasks} | {result.task_id for results in many for result in results}) == 1
        page = await first.stub.ListTasks(pb.ListTasksRequest(), metadata=metadata(first.ada))
        assert len(page.tasks) == 1


@pytest.mark.parametrize("number", [0, 1001])
async def test_a_batch_has_one_to_a_thousand_items(scheduler: Scheduler, number: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await batch(scheduler, *(item(scheduler) for _ in range(number)))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "requests" in (refused.value.details() or "")


async def test_a_caller_that_gives_up_changes_nothing_for_the_others(scheduler: Scheduler) -> None:
    calls = [asyncio.create_task(batch(scheduler, *(item(scheduler, str(n)) for _ in range(200)))) for n in range(5)]
    leaving, *staying = calls
    await asyncio.sleep(0)
    leaving.cancel()
    for results in await asyncio.gather(*staying):
        assert all(result.task_id for result in results)
    await asyncio.gather(leaving, return_exceptions=True)
    assert leaving.cancelled()
