"""Tasks whose contexts and results are payloads: who may name one, who is told, and how long it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import grpc
import pytest
from google.protobuf.struct_pb2 import Struct, Value
from guildmesh.scheduler.v1 import dead_letter_service_pb2 as letters_pb
from guildmesh.scheduler.v1 import dead_letter_service_pb2_grpc as letters_grpc
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb

from services.common.context import Principal
from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.test_payloads import Uploads, refused, until
from tests.support.service import metadata, running


@pytest.fixture
async def uploads(scheduler_settings: MakeSettings, scheduler_tls: Path, tmp_path: Path) -> AsyncIterator[Uploads]:
    """Payloads that no task uses go at once."""
    settings = scheduler_settings(
        object_store_url=tmp_path.as_uri(), payload_sweep_seconds=0.1, payload_check_seconds=0.1, payload_unused_seconds=1.5
    )
    async with running(open_service, settings, scheduler_tls) as server:
        yield Uploads(Scheduler(server), tmp_path)


async def test_context_and_result_by_reference_reach_worker_caller_and_events(uploads: Uploads) -> None:
    scheduler = uploads.scheduler
    given, made = await uploads.up(b'{"year": 2026}'), await uploads.up(b'"done"')
    task = await scheduler.create(context_payload=given.payload_id.upper())
    assert task.context_payload == given.payload_id
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        assert lease.task.context_payload == given.payload_id
        assert not lease.task.HasField("context")
        done = worker_pb.TaskCompletion(task_id=task.task_id, attempt=1, result_payload=made.payload_id)
        await worker.send(completions=[done])
        await worker.answer("acks")
        await worker.send(completions=[done])
        await worker.answer("acks")
        dependant = await scheduler.create(dependencies=[task_pb2.TaskDependency(task_id=task.task_id, name="first")])
        [outcome] = (await worker.lease()).dependencies
        assert (outcome.name, outcome.result_payload, outcome.HasField("result")) == ("first", made.payload_id, False)
        assert dependant.blocked_by <= 1
    ended = await scheduler.get(task.task_id)
    assert (ended.status, ended.result_payload, ended.HasField("result")) == ("completed", made.payload_id, False)
    created, *_, completed = await scheduler.watch(task.task_id)
    told = created.created.context_payload
    assert (told.payload_id, told.size_bytes, told.sha256) == (given.payload_id, 14, given.sha256)
    told = completed.completed.result_payload
    assert (told.payload_id, told.size_bytes, told.sha256) == (made.payload_id, 6, made.sha256)
    assert not completed.completed.HasField("result")


async def test_a_payload_stays_as_long_as_a_task_uses_it_and_goes_with_it(uploads: Uploads, postgres_url: str) -> None:
    scheduler = uploads.scheduler
    payload, unused = await uploads.up(b"{}"), await uploads.up(b"[]")
    task = await scheduler.create(context_payload=payload.payload_id)
    await refused(uploads.delete(payload.payload_id), grpc.StatusCode.FAILED_PRECONDITION, "Tasks or schedules use the payload")
    # The other one goes, so sweeps have looked at both after their time.
    await until(lambda: len(uploads.files()) == 1)
    await scheduler.cancel(task.task_id)
    assert (await uploads.down(payload.payload_id))[1] == b"{}"
    await refused(uploads.get(unused.payload_id), grpc.StatusCode.NOT_FOUND, "No payload")
    await keep_no_longer(postgres_url, task.task_id)
    await uploads.until_no_files()
    await refused(uploads.get(payload.payload_id), grpc.StatusCode.NOT_FOUND, "No payload")


async def test_a_task_names_only_what_its_tenant_has(uploads: Uploads) -> None:
    scheduler = uploads.scheduler
    bob = Principal("bob", unique("globex"), frozenset({"user"}))
    foreign = await uploads.up(b"{}", by=bob)
    await refused(scheduler.create(context_payload=foreign.payload_id), grpc.StatusCode.NOT_FOUND, "No payload")
    mine = await uploads.up(b"{}")
    both = scheduler.create(context_payload=mine.payload_id, context=Struct())
    await refused(both, grpc.StatusCode.INVALID_ARGUMENT, "must be unset with context_payload")
    task = await scheduler.create()
    async with scheduler.worker() as worker:
        await worker.lease()
        done = worker_pb.TaskCompletion(task_id=task.task_id, attempt=1, result_payload=foreign.payload_id)
        await worker.send(completions=[done])
        assert (await worker.answer("refusals")).reason == "PAYLOAD_NOT_FOUND"
        done = worker_pb.TaskCompletion(task_id=task.task_id, attempt=1, result=Value(string_value="inline"))
        await worker.send(completions=[done])
        await worker.answer("acks")
    assert (await scheduler.get(task.task_id)).result.string_value == "inline"


async def test_a_create_and_the_sweep_agree_on_what_is_there(uploads: Uploads) -> None:
    """Each payload is named at about the moment in which it expires: it has a task and its body, or neither."""
    scheduler = uploads.scheduler
    payloads = [await uploads.up(b"{}") for _ in range(40)]
    kept = []

    async def name(payload_id: str, after: float) -> None:
        await asyncio.sleep(after)
        try:
            await scheduler.create(context_payload=payload_id)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        else:
            kept.append(payload_id)

    await asyncio.gather(*(name(payload.payload_id, 1.2 + place * 0.02) for place, payload in enumerate(payloads)))
    await until(lambda: len(uploads.files()) == len(kept))
    for payload in payloads:
        if payload.payload_id in kept:
            assert (await uploads.down(payload.payload_id))[1] == b"{}"
        else:
            await refused(uploads.get(payload.payload_id), grpc.StatusCode.NOT_FOUND, "No payload")


async def test_a_replay_keeps_the_payload_of_the_task_that_it_repeats(uploads: Uploads, postgres_url: str) -> None:
    scheduler = uploads.scheduler
    payload = await uploads.up(b'{"year": 2026}')
    task = await scheduler.create(context_payload=payload.payload_id)
    letters: letters_grpc.DeadLetterServiceAsyncStub = letters_grpc.DeadLetterServiceStub(scheduler.channel)
    async with scheduler.worker() as worker:
        await worker.fail(await worker.lease(), retryable=False)
        again = await letters.ReplayTask(letters_pb.ReplayTaskRequest(task_id=task.task_id), metadata=metadata(scheduler.ada))
        assert again.context_payload == payload.payload_id
        await keep_no_longer(postgres_url, task.task_id)
        # This one goes, so sweeps have looked at both after their time, and the first task is forgotten.
        unused = await uploads.up(b"[]")
        await until(lambda: len(uploads.files()) == 1)
        await refused(uploads.get(unused.payload_id), grpc.StatusCode.NOT_FOUND, "No payload")
        assert await used_by(postgres_url, payload.payload_id) == [again.task_id]
        lease = await worker.lease()
        assert (lease.task.task_id, lease.task.context_payload) == (again.task_id, payload.payload_id)
        assert (await uploads.down(lease.task.context_payload))[1] == b'{"year": 2026}'
        await worker.complete(lease)
    await keep_no_longer(postgres_url, again.task_id)
    await uploads.until_no_files()


async def keep_no_longer(url: str, task_id: str) -> None:
    """As retention does: the task is kept no longer."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET ROLE scheduler_engine")
        assert await connection.execute("DELETE FROM scheduler.finished_tasks WHERE task_id = $1", task_id) == "DELETE 1"
    finally:
        await connection.close()


async def used_by(url: str, payload_id: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET ROLE scheduler_engine")
        rows = await connection.fetch("SELECT task_id::text FROM scheduler.task_payloads WHERE payload_id = $1", payload_id)
        return [row[0] for row in rows]
    finally:
        await connection.close()
