"""A worker outlives its tokens: a real scheduler, tokens that live seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb
from guildmesh_client.worker import Task, Worker

from services.common.grpcx.principal import CLAIMS_KEY
from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import BareWorker, MakeSettings, Scheduler, unique, value
from tests.support.service import metadata, running


def reason_of(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


async def test_the_library_goes_on_with_fresh_tokens_and_its_runs_notice_nothing(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Any] = []

    async def fresh() -> Any:
        asked.append(metadata(scheduler.ada, expires_in=3.2))
        if len(asked) == 2:
            raise ConnectionError("no token is to be had right now")
        return asked[-1]

    worker = Worker(channel=scheduler.channel, metadata=fresh, concurrency=40)

    @worker.task(scheduler.kind)
    async def wait(task: Task) -> Any:
        await asyncio.sleep(float(task.context["seconds"]))  # type: ignore[arg-type]
        return task.context["seconds"]

    # They end all the time while the streams replace each other.
    seconds = [0.2 * number for number in range(1, 33)]
    tasks = [await scheduler.create(context={"seconds": each}) for each in seconds]
    running = asyncio.create_task(worker.run())
    try:
        for task, each in zip(tasks, seconds, strict=True):
            events = await scheduler.watch(task.task_id)
            assert [event.WhichOneof("change") for event in events] == ["created", "started", "completed"]
            assert (await scheduler.get(task.task_id)).result == value(each)
    finally:
        worker.stop()
        async with asyncio.timeout(10):
            await running
    assert len(asked) >= 4
    # Each stream was replaced in time: none ended with its token.
    assert [record.getMessage() for record in caplog.records if "lost its stream" in record.getMessage()] == []
    assert [record.getMessage() for record in caplog.records if "no metadata" in record.getMessage()] != []


@pytest.fixture
async def patient(scheduler_settings: MakeSettings, scheduler_tls: Path) -> AsyncIterator[Scheduler]:
    """A scheduler whose leases outlive the tokens."""
    async with running(open_service, scheduler_settings(lease_seconds=15.0), scheduler_tls) as server:
        yield Scheduler(server)


async def test_a_token_that_is_not_renewed_ends_the_stream_and_loses_nothing(patient: Scheduler) -> None:
    scheduler = patient
    worker = BareWorker(scheduler.channel, metadata(scheduler.ada, expires_in=3.0))
    await worker.hello(1, worker_id=unique("worker"), kinds=[scheduler.kind])
    task = await scheduler.create()
    lease = await worker.lease()
    response = await worker.read()
    assert 0 < response.renew_token.expires_in.ToTimedelta().total_seconds() <= 1.51
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await worker.read()
    assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert reason_of(ended.value) == "TOKEN_EXPIRED"
    async with scheduler.worker(credits=0) as again:
        ack = await again.complete(lease, "kept")
        assert (ack.task_id, ack.attempt) == (task.task_id, 1)
    events = await scheduler.watch(task.task_id)
    assert [event.WhichOneof("change") for event in events] == ["created", "started", "completed"]


async def test_only_the_gateway_says_when_a_token_ends(scheduler: Scheduler) -> None:
    claims = dict(metadata(scheduler.ada, expires_in=-10.0))[CLAIMS_KEY]
    agent = BareWorker(scheduler.server.channel(as_="agent"), ((CLAIMS_KEY, claims),))
    await agent.hello(1, worker_id=unique("agent"), kinds=[scheduler.kind], all_tenants=True)
    await scheduler.create()
    await agent.complete(await agent.lease())
    await agent.send(heartbeats=[worker_pb.TaskHeartbeat(task_id="none", attempt=1)])
    assert not (await agent.read()).HasField("renew_token")
    agent.call.cancel()
