"""How calls of the client library are gathered, with a stub that notes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh_client import batch
from guildmesh_client.tasks import Metadata, TaskClient


class Stub:
    """Answers with the description as the id, and notes what was asked."""

    def __init__(self) -> None:
        self.calls: list[pb.BatchCreateTasksRequest] = []

    async def BatchCreateTasks(
        self, request: pb.BatchCreateTasksRequest, *, metadata: Metadata, timeout: float
    ) -> pb.BatchCreateTasksResponse:
        """Creates nothing."""
        self.calls.append(request)
        await asyncio.sleep(0)
        results = [pb.BatchCreateTasksResult(task_id=each.task.description) for each in request.requests]
        return pb.BatchCreateTasksResponse(results=results)

    @property
    def sizes(self) -> list[int]:
        """How many requests each call had."""
        return [len(call.requests) for call in self.calls]


@pytest.fixture
async def stub() -> Stub:
    return Stub()


@pytest.fixture
async def tasks(stub: Stub) -> AsyncIterator[TaskClient]:
    async with grpc.aio.insecure_channel("localhost:1") as channel:
        client = TaskClient(channel)
        client._stub = stub  # type: ignore[assignment]
        yield client


async def test_everything_that_one_may_say_is_in_the_request(tasks: TaskClient, stub: Stub) -> None:
    context: Any = {"a": [1, None, {"b": "c"}], "empty": {}}
    await tasks.create(
        "all", kind="k", queue="q", context=context, priority=0, timeout=12.5, max_attempts=3, labels={"x": "1"},
        parent_task_id="p", request_id="r",
    )  # fmt: skip
    await tasks.create("little", context={})
    everything, little = stub.calls[0].requests[0], stub.calls[1].requests[0]
    assert json_format.MessageToDict(everything) == {
        "task": {
            "description": "all", "kind": "k", "queue": "q", "context": {"a": [1.0, None, {"b": "c"}], "empty": {}},
            "priority": 0, "timeout": "12.500s", "maxAttempts": 3, "labels": {"x": "1"}, "parentTaskId": "p",
        },
        "requestId": "r",
    }  # fmt: skip
    assert json_format.MessageToDict(little) == {"task": {"description": "little", "context": {}}}


async def test_calls_at_once_are_one_call_and_what_is_not_valid_is_not_in_it(tasks: TaskClient, stub: Stub) -> None:
    answers = await asyncio.gather(
        tasks.create("one"),
        tasks.create("bad", context={"a": object()}),  # type: ignore[dict-item]
        tasks.create("\ud800"),
        tasks.create("bad", priority=2**40),
        tasks.create("two"),
        return_exceptions=True,
    )
    assert (answers[0], answers[4]) == ("one", "two")
    assert all(isinstance(answer, ValueError) for answer in answers[1:4])
    assert [request.task.description for request in stub.calls[0].requests] == ["one", "two"]
    assert stub.sizes == [2]


async def test_a_call_has_so_many_requests_and_so_many_bytes(
    tasks: TaskClient, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_MOST_TASKS", 3)
    monkeypatch.setattr(batch, "_MOST_BYTES", 100)
    texts = ["1", "2", "3", "4", "x" * 95, "5", "y" * 500]
    assert await asyncio.gather(*(tasks.create(text) for text in texts)) == texts
    assert [[request.task.description[0] for request in call.requests] for call in stub.calls] == [
        ["1", "2", "3"], ["4"], ["x"], ["5"], ["y"],
    ]  # fmt: skip


async def test_a_request_of_ones_own_is_sent_as_it_was(tasks: TaskClient, stub: Stub) -> None:
    request = pb.CreateTaskRequest(request_id="r")
    request.task.description = "mine"
    sending = asyncio.create_task(tasks.send(request))
    await asyncio.sleep(0)
    request.task.description = "changed"
    assert await sending == "mine"


async def test_what_all_gave_up_is_not_sent(tasks: TaskClient, stub: Stub) -> None:
    leaving = [asyncio.create_task(tasks.create(name)) for name in "ab"]
    await asyncio.sleep(0)
    for each in leaving:
        each.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    assert await tasks.create("c") == "c"
    assert stub.sizes == [1]


async def test_metadata_that_cannot_be_had_fails_the_call_and_not_the_next(tasks: TaskClient) -> None:
    allowed = False

    def metadata() -> Metadata:
        if not allowed:
            raise RuntimeError("no token")
        return ()

    tasks._metadata = metadata
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="no token"):
            await tasks.create("one")
        allowed = True
        assert await tasks.create("two") == "two"
