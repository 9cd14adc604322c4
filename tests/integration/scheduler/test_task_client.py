"""The client library: calls that are made at once travel together, and each gets its own answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb
from guildmesh_client.dependencies import After, Graph
from guildmesh_client.tasks import TaskClient, TaskNotCompleted, TaskRefused
from guildmesh_client.worker import Dependency, JsonValue, ResultOmitted, Task, TaskFailed, Worker

from services.common.grpcx.channel import secure_channel
from services.common.telemetry.metrics import requests_total
from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler
from tests.support.service import metadata, running


def client(scheduler: Scheduler) -> TaskClient:
    return TaskClient(scheduler.channel, metadata=lambda: metadata(scheduler.ada))


def calls() -> float:
    return requests_total.labels("POST", "/v1/tasks:batchCreate", "200")._value.get()


async def test_calls_that_are_made_at_once_are_few_calls_and_each_has_its_own_task(scheduler: Scheduler) -> None:
    tasks, before = client(scheduler), calls()
    ids = await asyncio.gather(*(tasks.create(str(number), kind=scheduler.kind) for number in range(300)))
    assert len(set(ids)) == 300
    assert calls() - before <= 3
    assert [(await scheduler.get(task_id)).description for task_id in (ids[0], ids[299])] == ["0", "299"]


async def test_everything_that_one_may_say_of_a_task_arrives(scheduler: Scheduler) -> None:
    parent = await scheduler.create()
    task_id = await client(scheduler).create(
        "all of it", kind=scheduler.kind, queue="code", context={"a": [1, None, {"b": "c"}]}, priority=9, timeout=12.5,
        max_attempts=3, labels={"x": "1"}, parent_task_id=parent.task_id, request_id="r",
    )  # fmt: skip
    task = await scheduler.get(task_id)
    assert (task.queue, task.priority, task.max_attempts, dict(task.labels)) == ("code", 9, 3, {"x": "1"})
    assert (task.parent_task_id, task.timeout.ToMilliseconds()) == (parent.task_id, 12_500)
    assert json_format.MessageToDict(task.context) == {"a": [1.0, None, {"b": "c"}]}


async def test_a_refusal_is_its_callers_alone(scheduler: Scheduler) -> None:
    tasks = client(scheduler)
    good, bad, worse = await asyncio.gather(
        tasks.create("fine", kind=scheduler.kind),
        tasks.create("lost", kind=scheduler.kind, queue="reserch"),
        tasks.create("no\x00", kind=scheduler.kind),
        return_exceptions=True,
    )
    assert isinstance(good, str)
    assert isinstance(bad, TaskRefused)
    assert (bad.code, bad.reason) == ("NOT_FOUND", "QUEUE_NOT_FOUND")
    assert isinstance(worse, TaskRefused)
    assert (worse.code, worse.reason) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")


async def test_a_call_that_fails_fails_for_all_who_shared_it_and_not_for_the_next(scheduler: Scheduler) -> None:
    allowed: list[tuple[str, str]] = []
    tasks = TaskClient(scheduler.channel, metadata=lambda: allowed)
    answers = await asyncio.gather(*(tasks.create("x", kind=scheduler.kind) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [grpc.aio.AioRpcError] * 3
    allowed += metadata(scheduler.ada)
    assert await tasks.create("x", kind=scheduler.kind)


async def test_who_gives_up_changes_nothing_for_the_others(scheduler: Scheduler) -> None:
    tasks = client(scheduler)
    leaving, staying = (asyncio.create_task(tasks.create(name, kind=scheduler.kind)) for name in ("leaving", "staying"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_what_is_not_json_is_told_before_it_is_sent(scheduler: Scheduler) -> None:
    with pytest.raises(ValueError, match="JSON"):
        await client(scheduler).create("x", context={"a": object()})  # type: ignore[dict-item]


async def test_run_gives_the_result_or_says_why_there_is_none(scheduler: Scheduler) -> None:
    tasks = client(scheduler)
    async with scheduler.worker() as worker:
        call = asyncio.create_task(tasks.run("count", kind=scheduler.kind, context={"n": 2}))
        await worker.complete(await worker.lease(), {"words": 3})
        assert await call == {"words": 3}
        call = asyncio.create_task(tasks.run("break", kind=scheduler.kind))
        await worker.fail(await worker.lease(), retryable=False)
        with pytest.raises(TaskNotCompleted) as ended:
            await call
    assert (ended.value.status, ended.value.reason) == ("failed", "BROKEN")
    with pytest.raises(TaskRefused) as refused:
        await tasks.run("lost", kind=scheduler.kind, queue="reserch")
    assert refused.value.reason == "QUEUE_NOT_FOUND"
    with pytest.raises(TimeoutError):
        await tasks.run("nobody", kind=scheduler.kind, wait=0.2)


async def test_run_bears_a_scheduler_that_is_replaced(scheduler_settings: MakeSettings, scheduler_tls: Path) -> None:
    settings = scheduler_settings()
    async with running(open_service, settings, scheduler_tls) as first:
        scheduler = Scheduler(first)
        port = first.running.port
        # The channel is this test's own: it outlives the first scheduler.
        async with secure_channel(f"localhost:{port}", "scheduler", scheduler_tls / "gateway") as channel:
            tasks = TaskClient(channel, metadata=metadata(scheduler.ada))
            call = asyncio.create_task(tasks.run("stay", kind=scheduler.kind))
            async with scheduler.worker() as lost:
                await lost.lease()
            await first.close()
            await first.running.stop()
            async with running(open_service, settings.model_copy(update={"port": port}), scheduler_tls) as second:
                again = Scheduler(second, scheduler.ada)
                again.kind = scheduler.kind
                async with again.worker() as worker:
                    await worker.complete(await worker.lease(), "still here")
                    async with asyncio.timeout(20):
                        assert await call == "still here"
                listed = await again.stub.ListTasks(pb.ListTasksRequest(), metadata=metadata(scheduler.ada))
                assert len(listed.tasks) == 1


async def test_a_graph_is_created_with_one_call_and_its_worker_finds_what_it_waited_for(scheduler: Scheduler) -> None:
    graph = Graph()
    for name in ("one", "two"):
        graph.add(name, name, kind=scheduler.kind)
    graph.add("bad", "bad", kind=scheduler.kind)
    graph.add(
        "join", "join", kind=scheduler.kind, after=["one", After("two", name="second"), After("bad", on_failure="continue")]
    )
    tasks = client(scheduler)
    ids = await tasks.create_graph(graph, request_id="graph")
    assert await tasks.create_graph(graph, request_id="graph") == ids
    worker = Worker(channel=scheduler.channel, metadata=metadata(scheduler.ada))

    @worker.task(scheduler.kind)
    async def work(task: Task) -> JsonValue:
        if task.description == "bad":
            raise TaskFailed("BROKEN", "it broke")
        if task.description != "join":
            return {"of": task.description}
        bad = task.dependencies["bad"]
        assert bad.error is not None
        return [task.dependencies["one"].result, task.dependencies["second"].result, bad.state, bad.error.reason, bad.result]

    running_worker = asyncio.create_task(worker.run())
    await scheduler.watch(ids["join"])
    worker.stop()
    await running_worker
    result = json_format.MessageToDict((await scheduler.get(ids["join"])).result)
    assert result == [{"of": "one"}, {"of": "two"}, "failed", "BROKEN", None]


async def test_a_graph_that_is_none_is_refused_with_the_reason(scheduler: Scheduler) -> None:
    graph = Graph().add("a", "a", after=["b"]).add("b", "b", after=["a"])
    with pytest.raises(TaskRefused) as refused:
        await client(scheduler).create_graph(graph)
    assert (refused.value.code, refused.value.reason) == ("INVALID_ARGUMENT", "DEPENDENCY_CYCLE")
    with pytest.raises(ValueError, match="on_failure"):
        Graph().add("a", "a", after=[After("b", on_failure="ignore")])  # type: ignore[arg-type]


def test_an_omitted_result_is_no_none() -> None:
    outcome = worker_pb.TaskDependencyOutcome(task_id="t", name="n", state=task_pb2.TASK_STATE_COMPLETED, result_omitted=True)
    with pytest.raises(ResultOmitted, match="reads it, while it is kept"):
        _ = Dependency.of(outcome).result


async def test_a_result_that_had_no_room_in_the_lease_is_read_when_it_is_asked_for(scheduler: Scheduler) -> None:
    graph = Graph()
    for number in range(10):
        graph.add(f"large-{number}", str(number), kind=scheduler.kind)
    graph.add("join", "join", kind=scheduler.kind, after=[f"large-{number}" for number in range(10)])
    ids = await client(scheduler).create_graph(graph)
    worker = Worker(channel=scheduler.channel, metadata=metadata(scheduler.ada))
    omitted: list[bool] = []

    @worker.task(scheduler.kind)
    async def work(task: Task) -> JsonValue:
        if task.description != "join":
            return task.description * 1_000_000
        omitted.extend(each.result_omitted for each in task.dependencies.values())
        results = [await task.result_of(name) for name in task.dependencies]
        with pytest.raises(KeyError):
            await task.result_of("nobody")
        return [str(result)[:3] for result in results]

    running_worker = asyncio.create_task(worker.run())
    await scheduler.watch(ids["join"])
    worker.stop()
    await running_worker
    result = json_format.MessageToDict((await scheduler.get(ids["join"])).result)
    assert result == [str(number) * 3 for number in range(10)]
    assert sum(omitted) >= 2
