"""The worker library and what is too large for a message: an attempt whose input or result cannot be had says so."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb
from guildmesh_client.payloads import download_json
from guildmesh_client.worker import JsonValue, Task, Worker

from services.common.grpcx.status import error_info
from services.common.ids import new_id
from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler
from tests.integration.scheduler.test_payloads import MIB, Uploads, refused
from tests.integration.scheduler.test_worker_library import working
from tests.support.service import metadata, running

LARGE = "x" * (MIB + 100)
AT_ONCE = task_pb2.RetryPolicy(initial_backoff=Duration(nanos=10_000_000))


@pytest.fixture
async def uploads(scheduler_settings: MakeSettings, scheduler_tls: Path, tmp_path: Path) -> AsyncIterator[Uploads]:
    settings = scheduler_settings(object_store_url=tmp_path.as_uri(), payload_max_bytes=4 * MIB)
    async with running(open_service, settings, scheduler_tls) as server:
        yield Uploads(Scheduler(server), tmp_path)


class Losing:
    """Calls of a worker whose first payload is deleted between its upload and the completion that names it."""

    def __init__(self, worker: Worker, uploads: Uploads) -> None:
        self.lost = ""
        self._uploads = uploads
        self._upload = worker.calls.upload
        worker.calls.upload = self.upload  # type: ignore[method-assign]

    async def upload(self, value: JsonValue) -> str:
        payload_id = await self._upload(value)
        if not self.lost:
            self.lost = payload_id
            await self._uploads.delete(payload_id)
        return payload_id


def a_worker(uploads: Uploads, result: Any) -> Worker:
    worker = Worker(channel=uploads.scheduler.channel, metadata=metadata(uploads.scheduler.ada))

    @worker.task(uploads.scheduler.kind)
    async def give(task: Task) -> Any:
        return result

    return worker


def changes(events: list[TaskEvent]) -> list[str | None]:
    return [event.WhichOneof("change") for event in events]


async def test_a_result_that_is_gone_fails_the_attempt_with_its_reason_and_is_retried(uploads: Uploads) -> None:
    scheduler = uploads.scheduler
    worker = a_worker(uploads, LARGE)
    losing = Losing(worker, uploads)
    task = await scheduler.create(retry_policy=AT_ONCE)
    async with working(worker):
        events = await scheduler.watch(task.task_id)
    assert changes(events) == ["created", "started", "retried", "ready", "started", "completed"]
    assert events[2].retried.reason == "RESULT_LOST"
    assert f"No payload '{losing.lost}'" in events[2].retried.message
    ended = await scheduler.get(task.task_id)
    assert await download_json(scheduler.channel, ended.result_payload, metadata(scheduler.ada)) == LARGE


async def test_an_upload_is_tried_again_while_the_store_may_come_back(uploads: Uploads) -> None:
    scheduler = uploads.scheduler
    task = await scheduler.create()
    # What no file can be written below is a store that is away.
    away = uploads.folder / "payloads"
    away.write_text("")
    async with working(a_worker(uploads, LARGE)):
        await scheduler.until_event(task.task_id, "started")
        await asyncio.sleep(0.5)
        away.unlink()
        assert changes(await scheduler.watch(task.task_id)) == ["created", "started", "completed"]


async def test_a_store_that_stays_away_fails_the_attempt_with_its_reason(uploads: Uploads) -> None:
    scheduler = uploads.scheduler
    task = await scheduler.create(max_attempts=1)
    (uploads.folder / "payloads").write_text("")
    async with working(a_worker(uploads, LARGE)):
        events = await scheduler.watch(task.task_id)
    failed = events[-1].failed
    assert (failed.reason, "DEPENDENCY_UNAVAILABLE" in failed.message) == ("RESULT_NOT_STORED", True), failed


async def test_a_result_larger_than_a_payload_may_be_is_not_tried_again(uploads: Uploads) -> None:
    scheduler = uploads.scheduler
    task = await scheduler.create(max_attempts=3)
    async with working(a_worker(uploads, "x" * (4 * MIB))):
        events = await scheduler.watch(task.task_id)
    assert changes(events) == ["created", "started", "failed"]
    assert (events[-1].failed.reason, "more than 4194304 bytes" in events[-1].failed.message) == ("RESULT_TOO_LARGE", True)


async def test_an_input_whose_body_is_lost_is_told_by_whoever_asks_for_it(uploads: Uploads) -> None:
    scheduler = uploads.scheduler
    payload = await uploads.up(b'{"a": 1}')
    shutil.rmtree(uploads.folder / "payloads")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await uploads.down(payload.payload_id)
    assert (caught.value.code(), error_info(caught.value)[0]) == (grpc.StatusCode.NOT_FOUND, "PAYLOAD_LOST")
    task = await scheduler.create(context_payload=payload.payload_id)
    async with working(a_worker(uploads, "never called")):
        events = await scheduler.watch(task.task_id)
    assert changes(events) == ["created", "started", "failed"]
    assert events[-1].failed.reason == "INPUT_NOT_READ"
    assert events[-1].failed.message.startswith("The context is a payload that cannot be read: PAYLOAD_LOST: The body of")


async def test_an_input_that_is_no_json_object_is_told(uploads: Uploads) -> None:
    scheduler = uploads.scheduler
    for body, reason in ((b"[1]", "INVALID_CONTEXT"), (b"{", "INPUT_NOT_READ"), (b"\xff", "INPUT_NOT_READ")):
        payload = await uploads.up(body)
        task = await scheduler.create(context_payload=payload.payload_id)
        async with working(a_worker(uploads, "never called")):
            events = await scheduler.watch(task.task_id)
        assert (changes(events)[2:], events[-1].failed.reason) == (["failed"], reason)


async def test_a_refused_completion_leaves_the_attempt_to_its_worker_and_then_to_its_lease(uploads: Uploads) -> None:
    """Of a worker in another language, which says nothing more: the lease ends, and the task goes to another."""
    scheduler = uploads.scheduler
    task = await scheduler.create(retry_policy=AT_ONCE)
    async with scheduler.worker() as worker:
        await worker.lease()
        done = worker_pb.TaskCompletion(task_id=task.task_id, attempt=1, result_payload=new_id())
        await worker.send(completions=[done])
        refusal = await worker.answer("refusals")
        assert (refusal.reason, refusal.step_id) == ("PAYLOAD_NOT_FOUND", "")
        second = await worker.lease()
        assert second.task.attempt == 2
        await worker.complete(second)
    events = await scheduler.watch(task.task_id)
    assert (changes(events)[2], events[2].retried.reason) == ("retried", "WORKER_LOST")


async def test_a_slow_upload_is_given_up_with_its_reason(
    scheduler_settings: MakeSettings, scheduler_tls: Path, tmp_path: Path
) -> None:
    settings = scheduler_settings(object_store_url=tmp_path.as_uri(), payload_upload_seconds=0.3)
    async with running(open_service, settings, scheduler_tls) as server:
        uploads = Uploads(Scheduler(server), tmp_path)

        async def slow() -> AsyncIterator[Any]:
            from google.api.httpbody_pb2 import HttpBody

            yield HttpBody(data=b"x")
            await asyncio.Event().wait()

        call = uploads.stub.UploadPayload(slow(), metadata=metadata(uploads.scheduler.ada))
        await refused(call, grpc.StatusCode.DEADLINE_EXCEEDED, "given up after 0.3 s")
        assert uploads.files() == []
