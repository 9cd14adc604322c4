"""What running tasks put out and how far they are, as numbered events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb
from guildmesh_client.worker import Task, Worker

from tests.integration.scheduler.conftest import Scheduler, completion
from tests.integration.scheduler.test_kills import ADA, Mesh, mesh  # noqa: F401 - the fixture
from tests.integration.scheduler.test_relay import own_settings, relay_settings  # noqa: F401 - fixtures
from tests.integration.scheduler.test_worker_library import a_worker, working
from tests.support.service import metadata


def chunk(lease: worker_pb.TaskLease, sequence: int, text: str) -> worker_pb.TaskOutputChunk:
    return worker_pb.TaskOutputChunk(task_id=lease.task.task_id, attempt=lease.task.attempt, sequence=sequence, text=text)


def changes(events: Sequence[TaskEvent]) -> list[str]:
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    return [event.WhichOneof("change") or "" for event in events]


async def test_output_is_numbered_with_the_other_events_and_told_twice_written_once(scheduler: Scheduler) -> None:
    task = await scheduler.create()
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        await worker.send(outputs=[chunk(lease, 1, "Once upon "), chunk(lease, 2, "a time")])
        # The stream is answered in order, so the last completes all.
        await worker.send(outputs=[chunk(lease, 2, "a time"), chunk(lease, 3, ".")])
        await worker.complete(lease)
    events = await scheduler.watch(task.task_id)
    assert changes(events) == ["created", "started", "output", "output", "output", "completed"]
    assert "".join(event.output.text for event in events) == "Once upon a time."
    assert [event.output.sequence for event in events[2:5]] == [1, 2, 3]
    assert events[3].type == "guildmesh.task.output.v1"


async def test_output_out_of_turn_or_of_an_old_attempt_is_refused(scheduler: Scheduler) -> None:
    task = await scheduler.create()
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        await worker.send(outputs=[chunk(lease, 2, "b")])
        refused = await worker.answer("outputs")
        assert (refused.reason, refused.sequence) == ("INVALID_ARGUMENT", 2)
        assert "send 1 first" in refused.message
        await worker.send(outputs=[chunk(lease, 1, "a")])
        assert (await worker.answer("outputs")).reason == ""
        await worker.fail(lease, retryable=True)
        again = await worker.lease()
        # What the first attempt told is acknowledged again; what it did not is refused, and the second begins anew.
        await worker.send(outputs=[chunk(lease, 2, "b")])
        assert (await worker.answer("outputs")).reason == "STALE_ATTEMPT"
        await worker.send(outputs=[chunk(again, 1, "A")])
        assert (await worker.answer("outputs")).reason == ""
        await worker.complete(again)
        await worker.send(outputs=[chunk(again, 2, "B")])
        assert (await worker.answer("outputs")).reason == "STALE_ATTEMPT"
    events = [event for event in await scheduler.watch(task.task_id) if event.HasField("output")]
    assert [(event.attempt, event.output.text) for event in events] == [(1, "a"), (2, "A")]


@pytest.mark.parametrize(("text", "sequence"), [("", 1), ("x" * 4097, 1), ("x", 0)])
async def test_a_chunk_that_is_none_ends_the_stream_with_what_to_do(scheduler: Scheduler, text: str, sequence: int) -> None:
    await scheduler.create()
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        await worker.send(outputs=[chunk(lease, sequence, text)])
        with pytest.raises(grpc.aio.AioRpcError, match="outputs") as refused:
            await worker.answer("outputs")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_watcher_sees_output_while_the_task_runs(scheduler: Scheduler) -> None:
    worker = a_worker(scheduler)
    seen = asyncio.Event()

    @worker.task(scheduler.kind)
    async def write(task: Task) -> Any:
        await task.output("Half of it, ")
        await seen.wait()
        task.progress(0.5)
        await task.output("and the rest.")
        return "done"

    async with working(worker):
        task = await scheduler.create()
        assert (await scheduler.until_event(task.task_id, "output")).output.text == "Half of it, "
        seen.set()
        events = await scheduler.watch(task.task_id)
    assert changes(events)[:4] == ["created", "started", "output", "output"]
    assert events[3].output.text == "and the rest."


async def test_progress_is_an_event(scheduler: Scheduler) -> None:
    worker = a_worker(scheduler)
    told = asyncio.Event()

    @worker.task(scheduler.kind)
    async def count(task: Task) -> Any:
        task.progress(0.25)
        await told.wait()
        return "done"

    async with working(worker):
        task = await scheduler.create()
        event = await scheduler.until_event(task.task_id, "progressed")
        assert (event.progressed.progress, event.type) == (0.25, "guildmesh.task.progressed.v1")
        assert (await scheduler.get(task.task_id)).progress == 0.25
        told.set()
        assert changes(await scheduler.watch(task.task_id))[-1] == "completed"


async def test_much_output_comes_whole_and_in_order(scheduler: Scheduler) -> None:
    worker = a_worker(scheduler)
    text = "".join(f"line {number}\n" for number in range(20_000))

    @worker.task(scheduler.kind)
    async def pour(task: Task) -> Any:
        for place in range(0, len(text), 1000):
            await task.output(text[place : place + 1000])
        return len(text)

    async with working(worker):
        task = await scheduler.create()
        events = await scheduler.watch(task.task_id)
    assert changes(events)[-1] == "completed"
    assert "".join(event.output.text for event in events) == text


async def test_output_survives_the_loss_of_the_stream(scheduler: Scheduler) -> None:
    """A bare worker loses its stream before it hears the answers, and tells all of it again on another."""
    task = await scheduler.create()
    async with scheduler.worker() as first:
        lease = await first.lease()
        await first.send(outputs=[chunk(lease, number, f"{number} ") for number in range(1, 50)])
    async with scheduler.worker() as second:
        parts = {"outputs": [chunk(lease, number, f"{number} ") for number in range(1, 60)]}
        await second.send(**parts, completions=[completion(task.task_id, lease.task.attempt)])
        await second.answer("acks")
    events = await scheduler.watch(task.task_id)
    assert [event.output.text for event in events if event.HasField("output")] == [f"{number} " for number in range(1, 60)]
    assert changes(events)[-1] == "completed"


async def follow(mesh: Mesh, task_id: str) -> AsyncIterator[TaskEvent]:  # noqa: F811 - no fixture here
    """The events of a task, wherever its scheduler dies meanwhile."""
    seen = 0
    while True:
        request = pb.WatchTaskRequest(task_id=task_id, after_event_number=seen)
        try:
            async for event in mesh.stub.WatchTask(request, metadata=metadata(ADA), timeout=20):
                assert event.number == seen + 1
                seen = event.number
                yield event
            return
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise


async def test_killing_the_scheduler_while_output_streams_loses_none_and_doubles_none(mesh: Mesh) -> None:  # noqa: F811
    lines = [f"line {number}\n" for number in range(400)]
    worker = Worker(channel=mesh.channel, metadata=metadata(ADA))

    @worker.task(mesh.kind)
    async def write(task: Task) -> Any:
        for line in lines:
            await task.output(line * 20)
            await asyncio.sleep(0.003)
        return "done"

    events: list[TaskEvent] = []
    async with working(worker):
        task_id = await mesh.create("write")
        kills = 0
        async with asyncio.timeout(40):
            async for event in follow(mesh, task_id):
                events.append(event)
                if event.HasField("output") and kills < 2 and len(events) % 5 == 0:
                    kills += 1
                    await mesh.scheduler.kill()
                    await mesh.scheduler.start()
    assert kills == 2
    assert changes(events)[-1] == "completed"
    attempts: dict[int, list[TaskEvent]] = {}
    for event in events:
        if event.HasField("output"):
            attempts.setdefault(event.attempt, []).append(event)
    for chunks in attempts.values():
        assert [event.output.sequence for event in chunks] == list(range(1, len(chunks) + 1))
    # An attempt that lost its lease while nobody answered was begun anew.
    last = attempts[events[-1].attempt]
    assert "".join(event.output.text for event in last) == "".join(line * 20 for line in lines)
