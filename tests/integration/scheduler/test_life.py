"""The life of a task over the wire: create, lease, report, retry, time out, cancel."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any, cast

import grpc
import pytest
from google.protobuf import duration_pb2
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb

from services.common.context import Principal
from services.common.db.clock import DatabaseClock
from tests.integration.scheduler.conftest import BareWorker, Scheduler, completion, unique, value
from tests.integration.scheduler.queue_rows import QueueRows
from tests.support.service import metadata


async def test_a_task_goes_from_create_to_its_result(scheduler: Scheduler) -> None:
    task = await scheduler.create("count the words", labels={"a": "b"})
    assert (task.state, task.status, task.last_event_number) == (task_pb2.TASK_STATE_PENDING, "pending", 1)
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        assert (lease.task.task_id, lease.task.attempt, lease.task.description) == (task.task_id, 1, "count the words")
        assert 290 < lease.remaining.seconds <= 300
        await worker.complete(lease, {"words": 3})
    done = await scheduler.get(task.task_id)
    assert (done.status, done.result, done.progress) == ("completed", value({"words": 3}), 1.0)
    assert done.create_time.ToDatetime() <= done.start_time.ToDatetime() <= done.finish_time.ToDatetime()
    events = await scheduler.watch(task.task_id)
    assert [event.number for event in events] == [1, 2, 3]
    assert [event.WhichOneof("change") for event in events] == ["created", "started", "completed"]
    assert events[0].created.labels == {"a": "b"}


async def test_the_times_of_a_task_never_go_back(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    async def behind(_: DatabaseClock, connection: Any) -> datetime:
        return cast(datetime, await connection.fetchval("SELECT clock_timestamp() - interval '1 second'"))

    # A start is told by PostgreSQL's clock, a creation and an end by one that is a little behind.
    monkeypatch.setattr(DatabaseClock, "read", behind)
    task = await scheduler.create()
    async with scheduler.worker() as worker:
        await worker.complete(await worker.lease())
    done = await scheduler.get(task.task_id)
    assert done.create_time.ToDatetime() < done.start_time.ToDatetime() <= done.finish_time.ToDatetime()
    times = [event.event_time.ToDatetime() for event in await scheduler.watch(task.task_id)]
    assert times == sorted(times)


async def test_a_waiting_worker_is_woken_by_a_new_task(scheduler: Scheduler) -> None:
    async with scheduler.worker() as worker:
        waiting = asyncio.create_task(worker.lease())
        task = await scheduler.create()
        assert (await waiting).task.task_id == task.task_id


async def test_queues_come_by_priority_then_tasks_by_priority_then_first_in_first_out(scheduler: Scheduler) -> None:
    # Queues of its own: in those of all, one replica decides when other tests' tenants wait there.
    rows = QueueRows(scheduler.server.running.settings.database_url.get_secret_value())
    for queue, priority in (("research", 10), ("code", 5), ("default", 5), ("analysis", 1)):
        rows.add(queue, scheduler.ada.tenant_id, priority=priority)
    rows.close()
    wanted = [("analysis", 9), ("research", 1), ("code", 5), ("research", 9), ("code", 5), ("default", 10)]
    made = [await scheduler.create(queue=queue, priority=priority) for queue, priority in wanted]
    order = [made[place].task_id for place in (3, 1, 5, 2, 4, 0)]
    async with scheduler.worker(credits=6) as worker:
        assert [(await worker.lease()).task.task_id for _ in made] == order


async def test_a_worker_gets_no_more_than_its_credits_and_only_its_queues(scheduler: Scheduler) -> None:
    for queue in ("code", "research", "code"):
        await scheduler.create(queue=queue)
    async with scheduler.worker(credits=1, queues=["code"]) as worker:
        first = await worker.lease()
        assert first.task.queue == "code"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await worker.lease()


async def test_credits_given_later_lease_the_rest(scheduler: Scheduler) -> None:
    for _ in range(3):
        await scheduler.create()
    async with scheduler.worker(credits=1) as worker:
        first = await worker.lease()
        await worker.send(credits=2)
        others = [await worker.lease(), await worker.lease()]
        assert len({lease.task.task_id for lease in (first, *others)}) == 3


async def test_a_lost_worker_gives_its_task_back_and_its_late_result_is_refused(scheduler: Scheduler) -> None:
    task = await scheduler.create()
    async with scheduler.worker(credits=1) as lost, scheduler.worker(credits=0) as other:
        first = await lost.lease()
        retried = await scheduler.until_event(task.task_id, "retried")
        assert (retried.retried.reason, retried.attempt) == ("WORKER_LOST", 1)
        await other.send(credits=1)
        second = await other.lease()
        assert second.task.attempt == 2
        await lost.send(completions=[completion(task.task_id, first.task.attempt, "late")])
        refusal = await lost.answer("refusals")
        assert (refusal.reason, refusal.attempt) == ("STALE_ATTEMPT", 1)
        await other.complete(second, "right")
    assert (await scheduler.get(task.task_id)).result == value("right")


async def test_heartbeats_keep_a_lease_and_tell_progress(scheduler: Scheduler) -> None:
    task = await scheduler.create()
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        for step in range(1, 7):
            beat = worker_pb.TaskHeartbeat(task_id=task.task_id, attempt=1, progress=step / 10)
            await worker.send(heartbeats=[beat])
            assert (await worker.answer("renewals")).task_id == task.task_id
            # Half a second is the heartbeat's own interval, not a wait for something else.
            await asyncio.sleep(0.5)
        running = await scheduler.get(task.task_id)
        # Heartbeats are no events; their progress is, once a second.
        assert (running.status, running.attempt) == ("running", 1)
        assert 3 <= running.last_event_number <= 6
        assert running.progress == pytest.approx(0.6)
        await worker.complete(lease)


async def test_a_heartbeat_of_a_stale_attempt_is_answered_by_a_cancel(scheduler: Scheduler) -> None:
    task = await scheduler.create()
    async with scheduler.worker() as worker:
        await worker.lease()
        await worker.send(heartbeats=[worker_pb.TaskHeartbeat(task_id=task.task_id, attempt=7)])
        cancel = await worker.answer("cancels")
        assert (cancel.task_id, cancel.attempt, cancel.reason) == (task.task_id, 7, "STALE_ATTEMPT")


async def test_a_repeated_completion_is_acknowledged_again_without_a_second_event(scheduler: Scheduler) -> None:
    task = await scheduler.create()
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        await worker.complete(lease)
        async with scheduler.worker(credits=0) as again:
            await again.complete(lease)
    assert (await scheduler.get(task.task_id)).last_event_number == 3


async def test_a_retryable_failure_waits_and_is_tried_again_until_attempts_are_used_up(scheduler: Scheduler) -> None:
    task = await scheduler.create(max_attempts=2)
    async with scheduler.worker() as worker:
        await worker.fail(await worker.lease(), retryable=True)
        second = await worker.lease()
        assert second.task.attempt == 2
        await worker.fail(second, retryable=True)
    events = await scheduler.watch(task.task_id)
    assert [event.WhichOneof("change") for event in events] == ["created", "started", "retried", "ready", "started", "failed"]
    waited = events[3].event_time.ToDatetime() - events[2].event_time.ToDatetime()
    # The first back-off is 1 s, give or take a fifth.
    assert 0.8 <= waited.total_seconds() < 4
    failed = await scheduler.get(task.task_id)
    assert (failed.status, failed.error.reason) == ("failed", "BROKEN")


async def test_a_failure_that_is_not_retryable_ends_the_task(scheduler: Scheduler) -> None:
    task = await scheduler.create()
    async with scheduler.worker() as worker:
        await worker.fail(await worker.lease(), retryable=False)
    assert (await scheduler.get(task.task_id)).error.reason == "BROKEN"


async def test_steps_are_journaled_once_and_given_to_the_next_attempt(scheduler: Scheduler) -> None:
    task = await scheduler.create()
    async with scheduler.worker() as worker:
        await worker.lease()
        step = worker_pb.TaskStep(task_id=task.task_id, attempt=1, step_id="search", result=value({"hits": 2}))
        for _ in range(2):
            await worker.send(steps=[step])
            assert (await worker.answer("acks")).step_id == "search"
        await worker.send(
            failures=[
                worker_pb.TaskFailure(task_id=task.task_id, attempt=1, error=task_pb2.TaskError(reason="BROKEN"), retryable=True)
            ]
        )
        again = await worker.lease()
        assert [(entry.step_id, entry.result, entry.attempt) for entry in again.steps] == [("search", value({"hits": 2}), 1)]
        await worker.send(steps=[worker_pb.TaskStep(task_id=task.task_id, attempt=1, step_id="late", result=value(1))])
        assert (await worker.answer("refusals")).reason == "STALE_ATTEMPT"
        await worker.complete(again)
    changes = [event.WhichOneof("change") for event in await scheduler.watch(task.task_id)]
    assert changes == ["created", "started", "step_completed", "retried", "ready", "started", "completed"]


async def test_a_step_and_the_completion_after_it_in_one_message_keep_their_order(scheduler: Scheduler) -> None:
    task = await scheduler.create()
    async with scheduler.worker() as worker:
        await worker.lease()
        await worker.send(
            steps=[worker_pb.TaskStep(task_id=task.task_id, attempt=1, step_id="only", result=value(1))],
            completions=[completion(task.task_id, 1)],
        )
        await worker.answer("acks")
    changes = [event.WhichOneof("change") for event in await scheduler.watch(task.task_id)]
    assert changes == ["created", "started", "step_completed", "completed"]


async def test_cancelling_tells_the_worker_and_cascades_to_subtasks(scheduler: Scheduler) -> None:
    root = await scheduler.create()
    child = await scheduler.create(parent_task_id=root.task_id)
    grandchild = await scheduler.create(parent_task_id=child.task_id)
    async with scheduler.worker(credits=1) as worker:
        lease = await worker.lease()
        assert lease.task.task_id == root.task_id
        cancelled = await scheduler.cancel(root.task_id, "no longer needed")
        assert cancelled.status == "cancelled"
        cancel = await worker.answer("cancels")
        assert (cancel.task_id, cancel.attempt, cancel.reason) == (root.task_id, 1, "CANCELLED")
    for task in (child, grandchild):
        assert (await scheduler.get(task.task_id)).status == "cancelled"
    assert (await scheduler.watch(root.task_id))[-1].cancelled.cause == "no longer needed"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await scheduler.cancel(root.task_id)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_what_is_left_of_the_subtasks_ends_with_the_parent(scheduler: Scheduler) -> None:
    root = await scheduler.create()
    async with scheduler.worker(credits=1) as worker:
        lease = await worker.lease()
        child = await scheduler.create(parent_task_id=root.task_id, parent_attempt=1)
        await worker.complete(lease)
    assert (await scheduler.get(child.task_id)).status == "cancelled"


async def test_a_subtask_needs_a_live_parent_and_the_current_attempt(scheduler: Scheduler) -> None:
    root = await scheduler.create()
    async with scheduler.worker(credits=1) as worker:
        lease = await worker.lease()
        assert await _code(scheduler.create(parent_task_id=root.task_id, parent_attempt=9)) == "FAILED_PRECONDITION"
        await worker.complete(lease)
    assert await _code(scheduler.create(parent_task_id=root.task_id)) == "FAILED_PRECONDITION"
    unknown = "01990000-0000-7000-8000-000000000000"
    assert await _code(scheduler.create(parent_task_id=unknown)) == "NOT_FOUND"


async def test_a_task_past_its_timeout_fails_and_its_worker_is_told(scheduler: Scheduler, postgres_url: str) -> None:
    task = await scheduler.create(timeout=duration_pb2.Duration(seconds=10))
    async with scheduler.worker() as worker:
        await worker.lease()
        await _pull_deadline(postgres_url, task.task_id)
        assert (await worker.answer("cancels")).reason == "TIMEOUT"
    failed = await scheduler.get(task.task_id)
    assert (failed.status, failed.error.reason) == ("failed", "TIMEOUT")


async def test_a_task_that_waits_for_its_next_attempt_times_out_too(scheduler: Scheduler, postgres_url: str) -> None:
    task = await scheduler.create()
    async with scheduler.worker(credits=1) as worker:
        await worker.fail(await worker.lease(), retryable=True)
    await _pull_deadline(postgres_url, task.task_id)
    assert (await scheduler.until_event(task.task_id, "failed")).failed.reason == "TIMEOUT"


async def test_a_stream_without_hello_is_refused(scheduler: Scheduler) -> None:
    worker = BareWorker(scheduler.channel, metadata(scheduler.ada))
    await worker.send(credits=1)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await worker.read()
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_only_agent_workers_get_the_tasks_of_every_tenant(scheduler: Scheduler) -> None:
    task = await scheduler.create()
    worker = BareWorker(scheduler.channel, metadata(scheduler.ada))
    await worker.send(hello=worker_pb.WorkerHello(worker_id="w", kinds=[scheduler.kind], all_tenants=True), credits=1)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await worker.read()
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    agent = BareWorker(scheduler.server.channel(as_="agent"), ())
    await agent.hello(1, worker_id="w", kinds=[scheduler.kind], all_tenants=True)
    lease = await agent.lease()
    assert (lease.task.task_id, lease.task.tenant_id) == (task.task_id, scheduler.ada.tenant_id)
    await agent.complete(lease)
    agent.call.cancel()


async def test_a_worker_never_gets_another_tenants_task_and_cannot_report_on_it(scheduler: Scheduler) -> None:
    bob = Principal("bob", unique("globex"), frozenset({"user"}))
    task = await scheduler.create()
    other = await scheduler.create(by=bob)
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        assert lease.task.task_id == task.task_id
        await worker.send(
            completions=[completion(other.task_id, 0)],
            heartbeats=[worker_pb.TaskHeartbeat(task_id=other.task_id, attempt=0)],
        )
        assert (await worker.answer("refusals")).reason == "STALE_ATTEMPT"
        await worker.complete(lease)
    assert (await scheduler.get(other.task_id, by=bob)).status == "pending"


async def test_submit_is_the_plans_post_task(scheduler: Scheduler) -> None:
    answer = await scheduler.stub.SubmitTask(pb.SubmitTaskRequest(task="<b>hello</b>"), metadata=metadata(scheduler.ada))
    assert answer.status == "pending"
    task = await scheduler.get(answer.task_id)
    assert (task.description, task.priority, task.timeout.seconds, task.queue) == ("hello", 5, 300, "default")
    # It is for the agents, and the workers of other tests take every tenant's.
    await scheduler.cancel(answer.task_id)


async def _code(call: object) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call  # type: ignore[misc]
    return refused.value.code().name


async def _pull_deadline(url: str, task_id: str) -> None:
    """Moves a deadline into the past, as if the timeout had passed."""
    import psycopg2

    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SET ROLE scheduler_engine")
            cursor.execute(
                "UPDATE scheduler.tasks SET deadline = clock_timestamp() - interval '1 s' WHERE task_id = %s", (task_id,)
            )
    finally:
        connection.close()
