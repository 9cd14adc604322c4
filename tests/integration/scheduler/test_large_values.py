"""The Python library: contexts and results of more than 1 MiB are payloads, and neither callers nor functions see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from guildmesh_client.dependencies import Graph
from guildmesh_client.options import Dependency
from guildmesh_client.tasks import TaskClient, TaskRefused
from guildmesh_client.worker import Task, Worker
from guildmesh_client.worker.json_values import JsonValue

from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler
from tests.support.service import metadata, running

LARGE = "x" * (2 << 20)


@pytest.fixture
async def large(scheduler_settings: MakeSettings, scheduler_tls: Path) -> AsyncIterator[Scheduler]:
    async with running(open_service, scheduler_settings(payload_max_bytes=4 << 20), scheduler_tls) as server:
        yield Scheduler(server)


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[None]:
    run = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await run


async def test_function_and_caller_get_large_values_as_small_ones(large: Scheduler) -> None:
    client = TaskClient(large.channel, metadata(large.ada))
    worker = Worker(channel=large.channel, metadata=metadata(large.ada))

    @worker.task(large.kind)
    async def echo(task: Task) -> JsonValue:
        first = task.dependencies.get("first")
        return {"text": task.context["text"], "first": first is not None and first.result == {"text": LARGE, "first": False}}

    async with working(worker):
        assert await client.run("small", kind=large.kind, context={"text": "small"}) == {"text": "small", "first": False}
        assert await client.run("large", kind=large.kind, context={"text": LARGE}) == {"text": LARGE, "first": False}
        first = await client.create("large", kind=large.kind, context={"text": LARGE})
        after = await client.run("after", kind=large.kind, context={"text": ""}, dependencies=[Dependency(first, name="first")])
        assert after == {"text": "", "first": True}


async def test_a_repeat_with_the_same_large_context_is_the_same_task(large: Scheduler) -> None:
    client = TaskClient(large.channel, metadata(large.ada))
    options = {"kind": large.kind, "request_id": "once"}
    first = await client.create("large", context={"text": LARGE}, **options)  # type: ignore[arg-type]
    assert await client.create("large", context={"text": LARGE}, **options) == first  # type: ignore[arg-type]
    with pytest.raises(TaskRefused, match="REQUEST_ID_REUSED"):
        await client.create("large", context={"text": LARGE + "y"}, **options)  # type: ignore[arg-type]


async def test_what_is_too_large_for_a_payload_is_refused(large: Scheduler) -> None:
    client = TaskClient(large.channel, metadata(large.ada))
    with pytest.raises(TaskRefused, match="PAYLOAD_TOO_LARGE"):
        await client.create("larger", kind=large.kind, context={"text": LARGE * 3})


async def test_a_graph_has_contexts_of_any_size_and_a_repeat_is_the_same_graph(large: Scheduler) -> None:
    client = TaskClient(large.channel, metadata(large.ada))
    worker = Worker(channel=large.channel, metadata=metadata(large.ada))

    @worker.task(large.kind)
    async def measure(task: Task) -> JsonValue:
        return len(str(task.context["text"])) + sum(int(str(each.result)) for each in task.dependencies.values())

    def graph(text: str = LARGE) -> Graph:
        made = Graph().add("first", "large", kind=large.kind, context={"text": text})
        made.add("second", "small", kind=large.kind, context={"text": "abc"})
        return made.add("sum", "of both", kind=large.kind, context={"text": LARGE}, after=["first", "second"])

    ids = await client.create_graph(graph(), request_id="graph")
    # It has uploaded the same once more.
    assert await client.create_graph(graph(), request_id="graph") == ids
    with pytest.raises(TaskRefused, match="REQUEST_ID_REUSED"):
        await client.create_graph(graph(LARGE[1:] + "y"), request_id="graph")
    async with working(worker):
        await large.watch(ids["sum"])
    assert (await large.get(ids["sum"])).result.number_value == 2 * len(LARGE) + 3
    with pytest.raises(TaskRefused, match="PAYLOAD_TOO_LARGE"):
        await client.create_graph(graph(LARGE * 3))


async def test_many_large_contexts_at_once_travel_with_small_ones(large: Scheduler) -> None:
    client = TaskClient(large.channel, metadata(large.ada))
    texts = [LARGE if number % 3 == 0 else "small" for number in range(9)]
    ids = await asyncio.gather(*(client.create("one of many", kind=large.kind, context={"text": text}) for text in texts))
    tasks = [await large.get(task_id) for task_id in ids]
    assert [bool(task.context_payload) for task in tasks] == [text == LARGE for text in texts]
