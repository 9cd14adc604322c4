"""The Python library: contexts and results of more than 1 MiB are payloads, and neither callers nor functions see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
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
