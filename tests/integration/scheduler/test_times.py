"""When tasks start and must have ended: delays, deadlines, timeouts and retry policies over the wire, by real time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg2
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb
from guildmesh_client.worker import Task, TaskFailed, Worker

from services.common.db.driver import open_driver
from services.common.db.engine_role import EngineDriver
from services.scheduler.bootstrap import open_service
from services.scheduler.storage.batches import Batches
from services.scheduler.storage.decided_queues import DecidedQueues
from services.scheduler.usecases.hub import Hub
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, completion, unique
from tests.support.service import metadata, running

LIMIT = 2.5
"""seconds until a deadline: enough to have it running before, on a machine that stalls."""


def seconds(number: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(number * 1e9))
    return duration


def moment(*, after: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) + timedelta(seconds=after))
    return stamp


async def nothing() -> None:
    """A step that is done at once."""


def kinds(events: list[TaskEvent]) -> list[str]:
    return [event.WhichOneof("change") or "" for event in events]


@pytest.fixture
async def quick(scheduler_settings: MakeSettings, scheduler_tls: Path) -> AsyncIterator[Scheduler]:
    """A scheduler that looks often, so that short delays are as short as they say, and whose leases are not what ends first."""
    settings = scheduler_settings(timer_poll_seconds=0.05, sweep_seconds=0.05, lease_seconds=15.0)
    async with running(open_service, settings, scheduler_tls) as server:
        yield Scheduler(server)


@pytest.mark.parametrize("how", ["delay", "schedule_time"])
async def test_a_delayed_task_starts_when_its_moment_has_come_and_not_before(quick: Scheduler, how: str) -> None:
    async with quick.worker() as worker:
        task = await quick.create(**({"delay": seconds(0.6)} if how == "delay" else {"schedule_time": moment(after=0.6)}))
        assert (task.state, task.status) == (task_pb2.TASK_STATE_SCHEDULED, "scheduled")
        due = task.next_start_time.ToDatetime()
        if how == "delay":
            assert due - task.create_time.ToDatetime() == timedelta(seconds=0.6)
        shown = await quick.get(task.task_id)
        assert (shown.status, shown.next_start_time) == ("scheduled", task.next_start_time)
        await worker.complete(await worker.lease())
    events = await quick.watch(task.task_id)
    assert kinds(events) == ["created", "ready", "started", "completed"]
    assert events[0].created.next_start_time == task.next_start_time
    assert events[1].event_time.ToDatetime() >= due
    done = await quick.get(task.task_id)
    assert done.start_time.ToDatetime() >= due
    assert not done.HasField("next_start_time")


async def test_a_moment_that_is_past_is_now(quick: Scheduler) -> None:
    async with quick.worker() as worker:
        for times in ({"schedule_time": moment(after=-3600)}, {"delay": seconds(0)}):
            task = await quick.create(**times)
            assert task.status == "pending"
            assert (await worker.lease()).task.task_id == task.task_id


async def test_a_delayed_task_is_listed_counted_and_cancelled(quick: Scheduler) -> None:
    task = await quick.create(delay=seconds(3600), queue="research")
    for listed in ({"state": task_pb2.TASK_STATE_SCHEDULED}, {"filter": "state = SCHEDULED AND queue = research"}):
        found = await quick.stub.ListTasks(pb.ListTasksRequest(**listed), metadata=metadata(quick.ada))
        assert [each.task_id for each in found.tasks] == [task.task_id]
    assert (await quick.cancel(task.task_id)).status == "cancelled"
    assert kinds(await quick.watch(task.task_id)) == ["created", "cancelled"]


async def test_a_repeat_of_a_delayed_task_gets_the_first_answer_even_when_it_has_ended(quick: Scheduler) -> None:
    request_id = unique("request")
    first = await quick.create(delay=seconds(0.3), request_id=request_id)
    assert await quick.create(delay=seconds(0.3), request_id=request_id) == first
    async with quick.worker() as worker:
        await worker.complete(await worker.lease())
    assert await quick.create(delay=seconds(0.3), request_id=request_id) == first
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await quick.create(delay=seconds(0.4), request_id=request_id)
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_who_has_no_worker_in_time_fails(quick: Scheduler) -> None:
    task = await quick.create(start_timeout=seconds(1), delay=seconds(0.2))
    events = await quick.watch(task.task_id)
    assert kinds(events) == ["created", "ready", "failed"]
    assert events[-1].failed.reason == "START_TIMEOUT"
    waited = events[-1].event_time.ToDatetime() - events[1].event_time.ToDatetime()
    assert timedelta(seconds=0.9) < waited < timedelta(seconds=10)


async def test_what_has_not_ended_by_its_deadline_fails_wherever_it_is(quick: Scheduler) -> None:
    waiting = await quick.create(total_timeout=seconds(LIMIT))
    running_one = await quick.create(deadline=moment(after=LIMIT), priority=10)
    resting = await quick.create(deadline=moment(after=LIMIT), priority=9, retry_policy={"initial_backoff": seconds(60)})
    async with quick.worker(credits=2) as worker:
        leases = [await worker.lease(), await worker.lease()]
        assert [lease.task.task_id for lease in leases] == [running_one.task_id, resting.task_id]
        # The first of the limits counts, and not the timeout of 300 s.
        assert all(lease.remaining.ToTimedelta() <= timedelta(seconds=LIMIT) for lease in leases)
        await worker.fail(leases[1], retryable=True)
        cancel = await worker.answer("cancels")
        assert (cancel.task_id, cancel.reason) == (running_one.task_id, "DEADLINE_EXCEEDED")
        await worker.send(heartbeats=[worker_pb.TaskHeartbeat(task_id=running_one.task_id, attempt=1)])
        assert (await worker.answer("cancels")).reason == "DEADLINE_EXCEEDED"
    ends = {}
    for name, task in (("waiting", waiting), ("running", running_one), ("resting", resting)):
        events = await quick.watch(task.task_id)
        assert events[-1].failed.reason == "DEADLINE_EXCEEDED"
        ends[name] = kinds(events)
    assert ends == {
        "waiting": ["created", "failed"],
        "running": ["created", "started", "failed"],
        "resting": ["created", "started", "retried", "failed"],
    }


@pytest.mark.parametrize("end", [{"deadline": moment(after=-1)}, {"deadline": moment(after=5), "delay": seconds(9)}])
async def test_a_task_that_could_only_fail_is_refused(quick: Scheduler, end: dict[str, Any]) -> None:
    request_id = unique("request")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await quick.create(request_id=request_id, **end)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "choose a later deadline" in (refused.value.details() or "")
    # It has no effect on what comes with the same id.
    assert (await quick.create(request_id=request_id)).status == "pending"


async def test_a_worker_that_waits_for_a_task_is_told_the_first_of_its_limits_too(quick: Scheduler) -> None:
    async with quick.worker(credits=1) as worker:
        for limit in ({"attempt_timeout": seconds(30)}, {"total_timeout": seconds(30)}, {"timeout": seconds(30)}):
            # It waits: a task is its from the moment it is created.
            await quick.create(**limit)
            lease = await worker.lease()
            assert timedelta(seconds=25) < lease.remaining.ToTimedelta() <= timedelta(seconds=30), limit
            await worker.send(completions=[completion(lease.task.task_id, 1)], credits=1)
            await worker.answer("acks")


async def test_an_attempt_that_takes_too_long_is_given_to_another(quick: Scheduler) -> None:
    task = await quick.create(attempt_timeout=seconds(2), retry_policy={"initial_backoff": seconds(0)})
    async with quick.worker(credits=1) as slow, quick.worker(credits=0) as other:
        lease = await slow.lease()
        assert timedelta(seconds=1) < lease.remaining.ToTimedelta() <= timedelta(seconds=2)
        cancel = await slow.answer("cancels")
        assert (cancel.attempt, cancel.reason) == (1, "ATTEMPT_TIMEOUT")
        await other.send(credits=1)
        assert (await other.lease()).task.attempt == 2
        retried = await quick.until_event(task.task_id, "retried")
        assert (retried.retried.reason, retried.retried.HasField("next_start_time")) == ("ATTEMPT_TIMEOUT", False)


async def test_a_run_that_tells_nothing_is_given_to_another_and_one_that_tells_progress_is_not(quick: Scheduler) -> None:
    worker = Worker(channel=quick.channel, metadata=metadata(quick.ada))
    stopped: list[tuple[str, int, str]] = []

    @worker.task(quick.kind)
    async def work(task: Task) -> Any:
        try:
            # The shortest heartbeat_timeout is 5 s, so it takes longer than that to see that it is kept.
            for step in range(12):
                if task.description == "tells" or task.attempt == 2:
                    task.progress(step / 12)
                if task.description == "does steps":
                    await task.step(str(step), nothing)
                await asyncio.sleep(0.5)
        except asyncio.CancelledError:
            stopped.append((task.description, task.attempt, task.stop_reason))
            raise
        return task.attempt

    policy = {"initial_backoff": seconds(0)}
    names = ("tells", "does steps", "is silent")
    made = {name: await quick.create(name, heartbeat_timeout=seconds(5), retry_policy=policy) for name in names}
    running_worker = asyncio.create_task(worker.run())
    try:
        events = {name: kinds(await quick.watch(task.task_id)) for name, task in made.items()}
    finally:
        worker.stop()
        await running_worker
    # Of twelve tellings in 6 s, one a second is an event.
    assert 3 <= events["tells"].count("progressed") <= 7
    events = {name: [kind for kind in told if kind != "progressed"] for name, told in events.items()}
    assert events["tells"] == ["created", "started", "completed"]
    assert events["does steps"] == ["created", "started", *["step_completed"] * 12, "completed"]
    assert events["is silent"] == ["created", "started", "retried", "started", "completed"]
    # The library stops it by itself, before the scheduler gives it to another.
    assert stopped == [("is silent", 1, "HEARTBEAT_TIMEOUT")]


async def test_a_failed_attempt_is_followed_by_the_next_as_the_policy_and_the_worker_say(quick: Scheduler) -> None:
    worker = Worker(channel=quick.channel, metadata=metadata(quick.ada))

    @worker.task(quick.kind)
    async def work(task: Task) -> Any:
        if task.attempt == 1:
            raise TaskFailed("BROKEN", "once", retryable=True)
        if task.attempt == 2:
            raise TaskFailed("BUSY", "come back later", retryable=True, retry_delay=0.4)
        raise TaskFailed("BAD_INPUT", "the worker would try again", retryable=True)

    policy = {"initial_backoff": seconds(0.2), "jitter": 0.0, "non_retryable_reasons": ["BAD_INPUT"]}
    task = await quick.create(retry_policy=policy, max_attempts=20)
    running_worker = asyncio.create_task(worker.run())
    try:
        events = await quick.watch(task.task_id)
    finally:
        worker.stop()
        await running_worker
    assert kinds(events) == ["created", *["started", "retried", "ready"] * 2, "started", "failed"]
    waits = [event.retried.next_start_time.ToDatetime() - event.event_time.ToDatetime() for event in (events[2], events[5])]
    assert waits == [timedelta(seconds=0.2), timedelta(seconds=0.4)]
    assert events[-1].failed.reason == "BAD_INPUT"


async def test_ten_thousand_tasks_that_are_due_in_one_second_are_ready_once_each_and_none_early(
    quick: Scheduler, scheduler_settings: MakeSettings, postgres_url: str
) -> None:
    due = moment(after=6)
    task = task_pb2.Task(description="at once", kind=quick.kind, schedule_time=due)
    batch = pb.BatchCreateTasksRequest(requests=[pb.CreateTaskRequest(task=task)] * 1000)
    answers = await asyncio.gather(
        *(quick.stub.BatchCreateTasks(batch, metadata=metadata(quick.ada), timeout=60) for _ in range(10))
    )
    ids = {result.task_id for answer in answers for result in answer.results}
    assert len(ids) == 10_000
    # Two more replicas look at the same moment.
    async with open_driver(scheduler_settings(), "scheduler") as database:
        engine = EngineDriver(database)
        batches = Batches(engine, Hub("other"), timedelta(seconds=2), DecidedQueues(engine))

        async def tick() -> None:
            while True:
                await batches.make_ready()
                await asyncio.sleep(0.02)

        others = [asyncio.create_task(tick()) for _ in range(2)]
        try:
            await asyncio.to_thread(_wait_until_none_is_scheduled, postgres_url, quick.kind)
        finally:
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
    rows = await asyncio.to_thread(_query, postgres_url, _NUMBERS, quick.kind)
    assert rows == [(1, 3, 10_000)]
    async with quick.worker(credits=1) as worker:
        first = (await worker.lease()).task.task_id
    early = [event for event in await _some_events(quick, [first, *sorted(ids)[::500]]) if event.type.endswith("ready.v1")]
    assert len(early) >= 20
    assert all(event.event_time.ToNanoseconds() >= due.ToNanoseconds() for event in early)


_NUMBERS = "SELECT state, next_event_number, count(*)::int FROM scheduler.tasks WHERE kind = %s GROUP BY 1, 2"


def _query(url: str, statement: str, *arguments: object) -> list[Any]:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SET LOCAL ROLE scheduler_engine")
            cursor.execute(statement, arguments)
            return list(cursor.fetchall())
    finally:
        connection.close()


def _wait_until_none_is_scheduled(url: str, kind: str) -> None:
    end = time.monotonic() + 60
    while _query(url, "SELECT count(*)::int FROM scheduler.tasks WHERE kind = %s AND state = 6", kind) != [(0,)]:
        assert time.monotonic() < end, "some are still scheduled"
        time.sleep(0.1)


async def _some_events(scheduler: Scheduler, ids: list[str]) -> list[TaskEvent]:
    found = []
    for task_id in ids:
        found.append(await scheduler.until_event(task_id, "ready"))
    return found
