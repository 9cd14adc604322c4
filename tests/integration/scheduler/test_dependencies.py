"""Tasks that wait for other tasks: what they are told, and what becomes of them when one does not complete."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2
from pydantic import SecretStr

from services.common.db.driver import open_driver
from services.common.db.engine_role import EngineDriver
from services.common.db.migrations import migrate
from services.common.grpcx.status import error_info
from services.scheduler.server.convert import new_task
from services.scheduler.storage.batches import Batches
from services.scheduler.storage.decided_queues import DecidedQueues
from services.scheduler.usecases.hub import Hub
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique, value
from tests.support.service import metadata

POLICIES = {"FAIL": 1, "CANCEL": 2, "CONTINUE": 3}


def on(*tasks: task_pb2.Task | str, policy: str = "FAIL", name: str = "") -> list[task_pb2.TaskDependency]:
    ids = [task if isinstance(task, str) else task.task_id for task in tasks]
    return [task_pb2.TaskDependency(task_id=each, name=name, failure_policy=POLICIES[policy]) for each in ids]


def kinds(events: list[TaskEvent]) -> list[str]:
    return [event.WhichOneof("change") or "" for event in events]


async def statuses(scheduler: Scheduler, *tasks: task_pb2.Task) -> list[str]:
    return [(await scheduler.get(task.task_id)).status for task in tasks]


async def test_a_task_waits_for_all_it_depends_on_and_is_handed_their_results(scheduler: Scheduler) -> None:
    one, two = await scheduler.create("one"), await scheduler.create("two")
    join = await scheduler.create("join", dependencies=[*on(one, name="first"), *on(two)])
    assert (join.status, join.blocked_by) == ("blocked", 2)
    assert [(each.task_id, each.name) for each in join.dependencies] == [(one.task_id, "first"), (two.task_id, two.task_id)]
    async with scheduler.worker() as worker:
        leases = [await worker.lease(), await worker.lease()]
        await worker.complete(leases[0], {"of": leases[0].task.description})
        shown = await scheduler.get(join.task_id)
        assert (shown.status, shown.blocked_by) == ("blocked", 1)
        listed = await scheduler.stub.ListTasks(pb.ListTasksRequest(filter="state = BLOCKED"), metadata=metadata(scheduler.ada))
        assert [(task.task_id, task.blocked_by) for task in listed.tasks] == [(join.task_id, 1)]
        await worker.complete(leases[1], {"of": leases[1].task.description})
        last = await worker.lease()
        assert last.task.task_id == join.task_id
        told = [(each.task_id, each.name, each.state, each.result) for each in last.dependencies]
        assert told == [
            (one.task_id, "first", task_pb2.TASK_STATE_COMPLETED, value({"of": "one"})),
            (two.task_id, two.task_id, task_pb2.TASK_STATE_COMPLETED, value({"of": "two"})),
        ]
        # The next attempt is told again.
        await worker.fail(last, retryable=True)
        again = await worker.lease()
        assert (again.task.attempt, list(again.dependencies)) == (2, list(last.dependencies))
        await worker.complete(again)
    events = await scheduler.watch(join.task_id)
    assert kinds(events)[:3] == ["created", "ready", "started"]
    assert list(events[0].created.dependency_ids) == [one.task_id, two.task_id]
    assert events[1].event_time.ToNanoseconds() >= (await scheduler.watch(two.task_id))[-1].event_time.ToNanoseconds()


@pytest.mark.parametrize(
    ("policy", "status", "events"),
    [
        ("FAIL", "failed", ["created", "failed"]),
        ("CANCEL", "cancelled", ["created", "cancelled"]),
        ("CONTINUE", "completed", ["created", "ready", "started", "completed"]),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("end", ["fails", "is cancelled"])
async def test_a_policy_decides_whether_the_dependency_ended_before_or_after(
    scheduler: Scheduler, policy: str, status: str, events: list[str], when: str, end: str
) -> None:
    bad = await scheduler.create("bad", priority=10)

    async def end_it() -> None:
        if end == "fails":
            async with scheduler.worker(credits=1) as worker:
                await worker.fail(await worker.lease(), "BROKEN", retryable=False)
        else:
            await scheduler.cancel(bad.task_id)

    if when == "before":
        await end_it()
    created = await scheduler.create("after", dependencies=on(bad, policy=policy, name="bad"))
    assert (created.status, created.blocked_by) == ("blocked", 1)
    if when == "after":
        await end_it()
    if policy == "CONTINUE":
        async with scheduler.worker() as worker:
            lease = await worker.lease()
            [told] = lease.dependencies
            assert (told.state, told.error.reason) == ((4, "BROKEN") if end == "fails" else (5, ""))
            assert not told.HasField("result")
            assert not told.result_omitted
            await worker.complete(lease)
    assert kinds(await scheduler.watch(created.task_id)) == events
    ended = await scheduler.get(created.task_id)
    assert ended.status == status
    if policy == "FAIL":
        why = "failed with BROKEN" if end == "fails" else "was cancelled"
        assert (ended.error.reason, ended.error.message) == (
            "DEPENDENCY_FAILED",
            f"The dependency 'bad' ({bad.task_id}) {why}.",
        )


async def test_what_depends_on_completed_tasks_only_starts_at_once(scheduler: Scheduler) -> None:
    async with scheduler.worker(credits=2) as worker:
        done = await scheduler.create("done")
        await worker.complete(await worker.lease(), "early")
        task = await scheduler.create("after", dependencies=on(done))
        assert task.status == "blocked"
        lease = await worker.lease()
        assert (lease.task.task_id, lease.dependencies[0].result) == (task.task_id, value("early"))
        await worker.complete(lease)
    assert kinds(await scheduler.watch(task.task_id)) == ["created", "ready", "started", "completed"]


async def test_a_failure_goes_along_the_chain_and_stops_where_it_is_allowed_to(scheduler: Scheduler) -> None:
    first = await scheduler.create("first")
    second = await scheduler.create("second", dependencies=on(first))
    third = await scheduler.create("third", dependencies=on(second, policy="CANCEL"))
    child = await scheduler.create("child of third", parent_task_id=third.task_id)
    of_child = await scheduler.create("after the child", dependencies=on(child))
    last = await scheduler.create("last", dependencies=on(third, policy="CONTINUE"))
    other = await scheduler.create("other", kind=unique("other"))
    half = await scheduler.create("half", dependencies=[*on(second, policy="CONTINUE"), *on(other)])
    await scheduler.cancel(first.task_id, "enough")
    assert await statuses(scheduler, second, third, child, of_child, last, half) == [
        "failed", "cancelled", "cancelled", "failed", "pending", "blocked",
    ]  # fmt: skip
    assert (await scheduler.get(half.task_id)).blocked_by == 1
    cancelled = (await scheduler.watch(third.task_id))[-1]
    assert cancelled.cancelled.cause == f"The dependency {second.task_id} failed with DEPENDENCY_FAILED."


async def test_a_blocked_task_keeps_its_moment_and_its_deadline(scheduler: Scheduler) -> None:
    first = await scheduler.create("first")
    later = await scheduler.create("later", dependencies=on(first), delay=Duration(seconds=3600))
    hasty = await scheduler.create("hasty", dependencies=on(first), total_timeout=Duration(seconds=1))
    patient = await scheduler.create("patient", dependencies=on(first), start_timeout=Duration(seconds=1))
    failed = (await scheduler.watch(hasty.task_id))[-1]
    assert failed.failed.reason == "DEADLINE_EXCEEDED"
    # Its own second begins when it might start; by now that of the other one is over.
    assert await statuses(scheduler, later, patient) == ["blocked", "blocked"]
    async with scheduler.worker(credits=1) as worker:
        await worker.complete(await worker.lease())
    ready = await scheduler.until_event(later.task_id, "ready")
    shown = await scheduler.get(later.task_id)
    assert (shown.status, shown.next_start_time) == ("scheduled", ready.ready.next_start_time)
    assert ready.ready.next_start_time.ToSeconds() == pytest.approx(later.create_time.ToSeconds() + 3600, abs=2)
    late = (await scheduler.watch(patient.task_id))[-1]
    assert late.failed.reason == "START_TIMEOUT"


async def test_a_blocked_task_is_signalled_and_cancelled(scheduler: Scheduler) -> None:
    first = await scheduler.create("first")
    blocked = await scheduler.create("blocked", dependencies=on(first))
    request = pb.SignalTaskRequest(task_id=blocked.task_id, signal="go", value=value(1))
    assert (await scheduler.stub.SignalTask(request, metadata=metadata(scheduler.ada))).status == "blocked"
    assert (await scheduler.cancel(blocked.task_id)).status == "cancelled"
    async with scheduler.worker(credits=1) as worker:
        await worker.complete(await worker.lease())
    assert await statuses(scheduler, first, blocked) == ["completed", "cancelled"]


async def test_a_repeat_gives_the_same_task_though_its_dependency_has_ended_since(scheduler: Scheduler) -> None:
    first = await scheduler.create("first")
    given = {"dependencies": on(first), "request_id": unique("request")}
    task = await scheduler.create("after", **given)
    async with scheduler.worker() as worker:
        await worker.complete(await worker.lease())
        await worker.complete(await worker.lease())
    again = await scheduler.create("after", **given)
    assert again == task
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await scheduler.create("after", **(given | {"dependencies": on(first, policy="CONTINUE")}))
    assert error_info(refused.value)[0] == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("whose", ["nobody's", "another tenant's"])
async def test_a_dependency_must_be_a_task_of_the_tenant(scheduler: Scheduler, whose: str) -> None:
    other = Scheduler(scheduler.server)
    upstream = (await other.create()).task_id if whose != "nobody's" else "01990000-0000-7000-8000-000000000000"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await scheduler.create("x", dependencies=on(upstream))
    assert (refused.value.code(), error_info(refused.value)) == (
        grpc.StatusCode.NOT_FOUND,
        ("TASK_NOT_FOUND", {"task_id": upstream}),
    )


@pytest.mark.parametrize(
    ("dependencies", "problem"),
    [
        (lambda task: on(task) * 2, "must have each task_id once"),
        (
            lambda task: on(task, "01990000-0000-7000-8000-000000000000", name="same"),
            "must have each name once, and has 'same' twice",
        ),
        (lambda task: on("nonsense"), "task.dependencies[0].task_id"),
        (lambda task: on(task) * 101, "task.dependencies"),
    ],
)
async def test_dependencies_that_make_no_sense_are_refused(scheduler: Scheduler, dependencies: Any, problem: str) -> None:
    task = await scheduler.create()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await scheduler.create("x", dependencies=dependencies(task))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert problem in (refused.value.details() or "")


async def test_results_that_have_no_room_are_omitted_and_can_be_read(scheduler: Scheduler) -> None:
    large = "x" * 1_000_000
    sources = [await scheduler.create(f"source {number}") for number in range(10)]
    join = await scheduler.create("join", dependencies=on(*sources))
    beside = await scheduler.create("beside", dependencies=on(*sources))
    async with scheduler.worker(credits=10) as worker:
        for _ in sources:
            lease = await worker.lease()
            await worker.complete(lease, large)
        await worker.send(credits=2)
        # Two leases of 8 MiB each are more than one message can be.
        for task in (join, beside):
            lease = await worker.lease()
            assert lease.task.task_id == task.task_id
            assert [each.result_omitted for each in lease.dependencies] == [False] * 8 + [True] * 2
            assert lease.dependencies[0].result == value(large)
            await worker.complete(lease)
    assert (await scheduler.get(sources[9].task_id)).result == value(large)


async def test_workers_look_again_for_a_task_that_was_locked_while_a_dependant_was_created(
    scheduler_settings: MakeSettings, empty_database_url: str
) -> None:
    settings = scheduler_settings(database_url=SecretStr(empty_database_url))
    migrate(settings, package="services.scheduler.storage.migrations", schema="scheduler")
    async with open_driver(settings, "scheduler") as database:
        hub, wakes = Hub("test"), []
        engine = EngineDriver(database)
        batches = Batches(engine, hub, timedelta(seconds=60), DecidedQueues(engine))
        first = new_task(pb.CreateTaskRequest(task=task_pb2.Task(description="x", kind="first")), "acme", "ada", "")
        await batches.create([first])
        hub.listen(wakes.append)
        after = task_pb2.Task(description="x", kind="second", dependencies=on(first.task_id))
        await batches.create([new_task(pb.CreateTaskRequest(task=after), "acme", "ada", "")])
        [wake] = wakes
        # Whoever passed over it must not believe that nothing waits; the new task itself waits for nobody yet.
        assert (wake.kinds, wake.counted, wake.again) == ({"first"}, False, 1)


async def test_one_dependency_of_very_many_tasks_tells_them_all(scheduler: Scheduler) -> None:
    first = await scheduler.create("first")
    requests = [
        pb.CreateTaskRequest(task=task_pb2.Task(description=str(number), kind=scheduler.kind, dependencies=on(first)))
        for number in range(500)
    ]
    batch = await scheduler.stub.BatchCreateTasks(pb.BatchCreateTasksRequest(requests=requests), metadata=metadata(scheduler.ada))
    async with scheduler.worker(credits=501) as worker:
        await worker.complete(await worker.lease())
        async with asyncio.timeout(20):
            leases = [await worker.lease() for _ in range(500)]
    assert [lease.task.task_id for lease in leases] == [result.task_id for result in batch.results]
