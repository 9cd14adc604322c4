"""Tasks that wait for signals: a person's approval, a message from outside, or the end of the time to wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb
from guildmesh_client.worker import Task, Worker

from services.common.context import Principal
from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique, value
from tests.support.service import metadata, running


@pytest.fixture
async def quick(scheduler_settings: MakeSettings, scheduler_tls: Path) -> AsyncIterator[Scheduler]:
    """A scheduler that looks often at the time, and whose leases are not what ends first."""
    settings = scheduler_settings(timer_poll_seconds=0.05, sweep_seconds=0.05, lease_seconds=15.0)
    async with running(open_service, settings, scheduler_tls) as server:
        yield Scheduler(server)


def kinds(events: list[TaskEvent]) -> list[str]:
    return [event.WhichOneof("change") or "" for event in events]


def wait(lease: worker_pb.TaskLease, signal: str = "approval", **fields: Any) -> worker_pb.TaskWait:
    return worker_pb.TaskWait(task_id=lease.task.task_id, attempt=lease.task.attempt, signal=signal, **fields)


async def signal(
    scheduler: Scheduler, task_id: str, name: str = "approval", item: Any = True, by: Principal | None = None
) -> task_pb2.Task:
    request = pb.SignalTaskRequest(task_id=task_id, signal=name, value=value(item))
    return await scheduler.stub.SignalTask(request, metadata=metadata(by or scheduler.ada))


@contextlib.asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[None]:
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await task


async def test_a_task_waits_for_an_answer_without_a_worker_and_goes_on_with_it(quick: Scheduler) -> None:
    worker = Worker(channel=quick.channel, metadata=metadata(quick.ada), concurrency=1)
    written: list[int] = []

    @worker.task(quick.kind)
    async def work(task: Task) -> Any:
        if task.description == "other":
            return "other"

        async def write() -> str:
            written.append(task.attempt)
            return "a letter"

        letter = await task.step("write", write)
        try:
            answer = await task.wait_for("approval", prompt="Send this letter?")
        except Exception:
            return "caught"
        return {"letter": letter, "answer": answer}

    async with working(worker):
        task = await quick.create(max_attempts=1)
        waiting = await quick.until_event(task.task_id, "waiting")
        assert (waiting.waiting.signal, waiting.waiting.prompt) == ("approval", "Send this letter?")
        shown = await quick.get(task.task_id)
        assert (shown.status, shown.waiting_for.signal, shown.waiting_for.prompt) == ("waiting", "approval", "Send this letter?")
        assert shown.waiting_for.expire_time == waiting.waiting.expire_time
        listed = await quick.stub.ListTasks(pb.ListTasksRequest(filter="state = WAITING"), metadata=metadata(quick.ada))
        assert [(each.task_id, each.waiting_for.signal) for each in listed.tasks] == [(task.task_id, "approval")]
        # Its worker, which runs one task at a time, is free.
        other = await quick.create("other")
        assert kinds(await quick.watch(other.task_id)) == ["created", "started", "completed"]
        answered = await signal(quick, task.task_id, item={"approved": True, "comment": "well said"})
        assert (answered.status, answered.HasField("waiting_for")) == ("pending", False)
        events = await quick.watch(task.task_id)
    expected = ["created", "started", "step_completed", "waiting", "signalled", "ready", "started", "completed"]
    assert kinds(events) == expected
    assert (events[4].actor, events[4].signalled.value) == ("ada", value({"approved": True, "comment": "well said"}))
    done = await quick.get(task.task_id)
    # The one attempt that it may have is not used up by waiting.
    assert (done.status, done.attempt) == ("completed", 2)
    assert done.result == value({"letter": "a letter", "answer": {"approved": True, "comment": "well said"}})
    assert written == [1]


async def test_of_answers_that_come_at_once_one_counts_and_the_same_may_come_again(quick: Scheduler) -> None:
    task = await quick.create()
    async with quick.worker() as worker:
        await worker.send(waits=[wait(await worker.lease())])
        await worker.answer("acks")
        answers = await asyncio.gather(
            *(signal(quick, task.task_id, item=f"answer {number % 2}") for number in range(20)), return_exceptions=True
        )
        refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert len(refused) == 10
        assert {(error.code(), "SIGNAL_ALREADY_SENT" in str(error.trailing_metadata())) for error in refused} == {
            (grpc.StatusCode.ALREADY_EXISTS, True)
        }
        lease = await worker.lease()
        [step] = lease.steps
        assert (step.step_id, step.result) in [("approval", value({"value": f"answer {number}"})) for number in (0, 1)]
        await worker.complete(lease)
    assert kinds(await quick.watch(task.task_id)).count("signalled") == 1


async def test_a_signal_that_comes_first_is_there_when_the_task_comes_to_wait(quick: Scheduler) -> None:
    task = await quick.create()
    assert (await signal(quick, task.task_id)).status == "pending"
    async with quick.worker() as worker:
        first = await worker.lease()
        # It is among the steps of the lease already; a worker that does not look is sent on at once.
        assert [step.step_id for step in first.steps] == ["approval"]
        await signal(quick, task.task_id, "second", None)
        await worker.send(waits=[wait(first, "second")])
        again = await worker.lease()
        assert [(step.step_id, step.result) for step in again.steps] == [
            ("approval", value({"value": True})),
            ("second", value({"value": None})),
        ]
        await worker.complete(again)
    expected = ["created", "signalled", "started", "signalled", "waiting", "ready", "started", "completed"]
    assert kinds(await quick.watch(task.task_id)) == expected


async def test_who_waits_too_long_goes_on_without(quick: Scheduler) -> None:
    worker = Worker(channel=quick.channel, metadata=metadata(quick.ada))

    @worker.task(quick.kind)
    async def work(task: Task) -> Any:
        try:
            return await task.wait_for("approval", timeout=0.3)
        except TimeoutError as error:
            return str(error)

    async with working(worker):
        task = await quick.create()
        events = await quick.watch(task.task_id)
        assert kinds(events) == ["created", "started", "waiting", "signalled", "ready", "started", "completed"]
        assert events[3].signalled.timed_out
        assert events[3].event_time.ToNanoseconds() >= events[2].waiting.expire_time.ToNanoseconds()
        assert (await quick.get(task.task_id)).result == value("the signal 'approval' did not come in time")


async def test_the_timeout_stands_still_while_a_task_waits_and_its_deadline_does_not(quick: Scheduler) -> None:
    # The shortest timeout is 10 s; what is left of it after the wait is what was left before.
    task = await quick.create(timeout=Duration(seconds=10))
    limited = await quick.create(total_timeout=Duration(seconds=2), priority=1)
    async with quick.worker(credits=2) as worker:
        leases = [await worker.lease(), await worker.lease()]
        await worker.send(waits=[wait(lease) for lease in leases])
        await worker.answer("acks")
        failed = await quick.until_event(limited.task_id, "failed")
        assert failed.failed.reason == "DEADLINE_EXCEEDED"
        await signal(quick, task.task_id)
        await worker.send(credits=1)
        again = await worker.lease()
        # Two seconds have passed, and none of them counts.
        assert again.remaining.ToMilliseconds() > 8_500
        await worker.complete(again)


async def test_a_waiting_task_is_cancelled_and_an_ended_one_gets_no_signal(quick: Scheduler) -> None:
    task = await quick.create()
    async with quick.worker() as worker:
        await worker.send(waits=[wait(await worker.lease())])
        await worker.answer("acks")
    assert (await quick.cancel(task.task_id)).status == "cancelled"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await signal(quick, task.task_id)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "is cancelled; only a task that has not ended gets signals" in (refused.value.details() or "")


async def test_a_task_of_another_tenant_gets_no_signal(quick: Scheduler) -> None:
    task = await quick.create()
    for task_id, by in ((task.task_id, Principal("eve", unique("evil"), frozenset({"user"}))), ("nonsense", quick.ada)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await signal(quick, task_id, by=by)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stale_attempt_may_not_wait_and_a_wait_may_be_told_again(quick: Scheduler) -> None:
    task = await quick.create()
    async with quick.worker() as worker:
        lease = await worker.lease()
        stale = worker_pb.TaskWait(task_id=task.task_id, attempt=7, signal="approval")
        await worker.send(waits=[stale])
        assert (await worker.answer("refusals")).reason == "STALE_ATTEMPT"
        await worker.send(waits=[wait(lease)])
        await worker.answer("acks")
        await worker.send(waits=[wait(lease)])
        await worker.answer("acks")
        await signal(quick, task.task_id)
        await worker.complete(await worker.lease())
    assert kinds(await quick.watch(task.task_id)).count("waiting") == 1


async def test_a_task_gets_no_more_signals_than_a_lease_can_carry(quick: Scheduler) -> None:
    task = await quick.create()
    large = "x" * 1_000_000
    for number in range(8):
        await signal(quick, task.task_id, f"large {number}", large)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await signal(quick, task.task_id, "one more", large)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "send references instead of large values" in (refused.value.details() or "")
    # What it has may come again, and a worker can be told of all of it.
    await signal(quick, task.task_id, "large 0", large)
    async with quick.worker() as worker:
        lease = await worker.lease()
        assert [step.step_id for step in lease.steps] == [f"large {number}" for number in range(8)]
        await worker.complete(lease)
