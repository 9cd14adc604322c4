"""What new tasks take from their queue, on every replica; and a queue is deleted only when nothing waits or runs in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg2
import pytest
from guildmesh.scheduler.v1 import schedule_pb2, task_pb2
from guildmesh.scheduler.v1 import schedule_service_pb2 as schedules_pb
from guildmesh.scheduler.v1 import schedule_service_pb2_grpc as schedules_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as tasks_pb

from services.common.context import Principal
from services.scheduler.bootstrap import open_service
from services.scheduler.storage import batches
from services.scheduler.storage import queues as stored
from services.scheduler.usecases.queues import Queues
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.queues.conftest import Client, Tables, refused
from tests.support.service import metadata, running

NOT_EMPTY = (grpc.StatusCode.FAILED_PRECONDITION, "QUEUE_NOT_EMPTY")
POLICY: Any = {"initial_backoff": timedelta(seconds=7), "non_retryable_reasons": ["BAD_INPUT"]}


@pytest.fixture
async def other(client: Client, own_settings: MakeSettings, scheduler_tls: Path) -> AsyncIterator[Scheduler]:
    """Another replica, for the same tenant and kind."""
    async with running(open_service, own_settings(), scheduler_tls) as server:
        replica = Scheduler(server, client.user)
        replica.kind = client.scheduler.kind
        yield replica


def of(tables: Tables, task_id: str) -> Any:
    """What the row of a task says: priority of its queue, attempts, and days that it is kept."""
    [row] = tables.query("SELECT queue_priority, max_attempts, retention_days FROM tasks WHERE task_id = %s", task_id)
    return row


async def test_a_new_task_takes_what_it_does_not_say_from_its_queue(client: Client, tables: Tables) -> None:
    policy = task_pb2.RetryPolicy(**POLICY)
    await client.create("q", priority=8, max_attempts=2, retention_days=90, retry_policy=policy)
    task = await client.scheduler.create(queue="q")
    assert (task.max_attempts, task.retry_policy.initial_backoff.seconds) == (2, 7)
    assert list(task.retry_policy.non_retryable_reasons) == ["BAD_INPUT"]
    assert await client.scheduler.get(task.task_id) == task
    assert of(tables, task.task_id) == (8, 2, 90)
    own = await client.scheduler.create(queue="q", max_attempts=5, retry_policy=task_pb2.RetryPolicy())
    assert (own.max_attempts, own.HasField("retry_policy"), own.retry_policy.HasField("initial_backoff")) == (5, True, False)
    assert of(tables, own.task_id) == (8, 5, 90)
    # It holds for the work: the second failure is the last, and one that the policy names is the only one.
    async with client.scheduler.worker() as worker:
        leases = [await worker.lease(), await worker.lease()]
        assert [lease.task.max_attempts for lease in leases] == [2, 5]
        await worker.fail(leases[0], "BAD_INPUT", retryable=True)
        await worker.fail(leases[1], "BAD_INPUT", retryable=True)
    assert (await client.scheduler.get(task.task_id)).status == "failed"
    assert (await client.scheduler.get(own.task_id)).status == "scheduled"


async def test_a_change_holds_for_what_is_created_from_then_on_and_a_repeat_gets_the_first_answer(
    client: Client, tables: Tables
) -> None:
    await client.create("q", max_attempts=2)
    first = await client.scheduler.create(queue="q", request_id="once")
    await client.update("q", max_attempts=4, priority=9)
    assert await client.scheduler.create(queue="q", request_id="once") == first
    later = await client.scheduler.create(queue="q")
    assert (of(tables, first.task_id)[:2], of(tables, later.task_id)[:2]) == ((5, 2), (9, 4))


async def test_every_replica_goes_by_a_change_as_soon_as_it_hears_of_it(client: Client, other: Scheduler) -> None:
    await client.create("q", max_attempts=2)
    assert (await other.create(queue="q")).max_attempts == 2
    await client.update("q", max_attempts=3)
    assert (await client.scheduler.create(queue="q")).max_attempts == 3, "this replica does at once"
    # Far less than the minute after which a queue is read again in any case.
    async with asyncio.timeout(10):
        while (await other.create(queue="q")).max_attempts != 3:
            pass
    await client.update("default", "max_attempts", by=client.operator, max_attempts=6)
    async with asyncio.timeout(10):
        while (await other.create(queue="default")).max_attempts != 6:
            pass
    await client.update("default", "max_attempts", by=client.operator)


async def test_a_run_of_a_schedule_takes_what_its_queue_says(client: Client, tables: Tables) -> None:
    await client.create("q", max_attempts=2, priority=7, retention_days=1, retry_policy=task_pb2.RetryPolicy(**POLICY))
    schedules: Any = schedules_grpc.ScheduleServiceStub(client.scheduler.channel)
    task = task_pb2.Task(description="x", queue="q", kind=client.scheduler.kind)
    request = schedules_pb.CreateScheduleRequest(schedule=schedule_pb2.Schedule(cron="@yearly", task=task), schedule_id="s")
    await schedules.CreateSchedule(request, metadata=metadata(client.user))
    run = await schedules.TriggerSchedule(schedules_pb.TriggerScheduleRequest(schedule_id="s"), metadata=metadata(client.user))
    assert of(tables, run.task_id) == (7, 2, 1)
    assert (await client.scheduler.get(run.task_id)).retry_policy.initial_backoff.seconds == 7


async def test_a_queue_with_tasks_is_not_deleted_and_its_ended_ones_stay(client: Client) -> None:
    await client.create("q")
    bob = Principal("bob", unique("globex"), frozenset({"admin"}))
    await client.create("q", bob)
    waiting = await client.scheduler.create(queue="q")
    assert await refused(client.delete("q")) == NOT_EMPTY
    await client.delete("q", by=bob)
    await client.scheduler.cancel(waiting.task_id)
    await client.delete("q")
    assert (await client.scheduler.get(waiting.task_id)).status == "cancelled"
    assert await refused(client.scheduler.create(queue="q")) == (grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND")


async def test_a_shared_queue_is_deleted_when_no_tenant_uses_it(client: Client) -> None:
    await client.create("everyones", client.operator, shared=True)
    task = await client.scheduler.create(queue="everyones")
    assert await refused(client.delete("everyones", by=client.operator)) == NOT_EMPTY
    # From now on the task is in the tenant's own.
    await client.create("everyones")
    await client.delete("everyones", by=client.operator)
    assert await refused(client.delete("everyones")) == NOT_EMPTY
    await client.scheduler.cancel(task.task_id)
    await client.delete("everyones")


async def test_a_replica_that_has_not_heard_of_a_deletion_creates_nothing_in_the_queue(
    client: Client, other: Scheduler, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.create("gone")
    await client.create("there")
    warm = await other.create(queue="gone")
    await other.cancel(warm.task_id)
    monkeypatch.setattr(Queues, "woken", lambda *_: None)
    # It was read a moment ago, so both replicas believe that it is there.
    await client.delete("gone")
    assert await refused(other.create(queue="gone")) == (grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND")
    kinds = [("gone", 2), ("there", 3), ("gone", 1)]
    requests = [
        tasks_pb.CreateTaskRequest(task=task_pb2.Task(description="x", kind=other.kind, queue=queue))
        for queue, number in kinds
        for _ in range(number)
    ]
    call = tasks_pb.BatchCreateTasksRequest(requests=requests)
    answer = await other.stub.BatchCreateTasks(call, metadata=metadata(client.user))
    told = [result.error.message.split(";")[0] for result in answer.results]
    gone = "No queue 'gone'"
    assert told == [gone, gone, "", "", "", gone]
    assert tables.query("SELECT queue, count(*) FROM tasks WHERE tenant_id = %s GROUP BY 1", client.user.tenant_id) == [
        ("there", 3)
    ]


async def test_a_deletion_waits_for_a_create_that_was_first(
    client: Client, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.create("q")
    written, go_on = asyncio.Event(), asyncio.Event()

    async def hold(name: str, *rest: Any) -> None:
        if name == "scheduler.create.before_commit":
            written.set()
            await go_on.wait()

    monkeypatch.setattr(batches, "fail_point", hold)
    creating = asyncio.create_task(client.scheduler.create(queue="q"))
    await written.wait()
    deleting = asyncio.create_task(client.delete("q"))
    waits = (
        "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'queues'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted"
    )
    try:
        async with asyncio.timeout(10):
            while not await asyncio.to_thread(tables.one, waits):
                pass
    finally:
        go_on.set()
    assert (await creating).status == "pending"
    assert await refused(deleting) == NOT_EMPTY


async def test_creates_and_deletions_at_once_leave_no_task_without_its_queue(
    client: Client, other: Scheduler, tables: Tables
) -> None:
    outcomes: set[str] = set()
    for round_ in range(15):
        name = f"q{round_}"
        await client.create(name)
        calls = [(client.scheduler, other)[number % 2].create(queue=name) for number in range(10)]
        done = await asyncio.gather(client.delete(name), *calls, return_exceptions=True)
        reasons = {"created" if isinstance(each, task_pb2.Task) else "refused" for each in done[1:]}
        outcomes |= {"deleted" if done[0] is None else "kept", *reasons}
    lost = """
        SELECT count(*) FROM tasks t WHERE NOT EXISTS (
          SELECT FROM queues q WHERE q.queue = t.queue AND q.tenant_id IN (t.tenant_id, '*'))
    """
    assert tables.one(lost) == 0
    assert outcomes >= {"created"}, "nothing happened"


@pytest.fixture
async def when_closed(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[Callable[[], Awaitable[None]]], None]]:
    """Has something done when the queue `q`, of whose name another tenant has a task, is closed and was found empty."""
    bob = Principal("bob", unique("globex"), frozenset({"admin"}))
    for by in (None, bob):
        await client.create("q", by)
    await client.scheduler.create(queue="q", by=bob)
    looks = 0
    look = stored._check_empty

    def then(do: Callable[[], Awaitable[None]]) -> None:
        async def counted(*arguments: Any) -> None:
            nonlocal looks
            looks += 1
            await look(*arguments)
            if looks == 2:
                await do()

        monkeypatch.setattr(stored, "_check_empty", counted)

    yield then
    assert looks >= 2


async def test_nobody_waits_while_it_is_looked_whether_a_closed_queue_has_tasks(client: Client, when_closed: Any) -> None:
    async def create() -> None:
        async with asyncio.timeout(5):
            assert await refused(client.scheduler.create(queue="q")) == (grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND")
            await client.scheduler.create()

    when_closed(create)
    await client.delete("q")
    assert await refused(client.get("q")) == (grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND")


async def test_a_queue_that_was_open_in_between_is_looked_at_again(client: Client, tables: Tables, when_closed: Any) -> None:
    async def open_it() -> None:
        await asyncio.to_thread(
            tables.query, "UPDATE queues SET closed_until = NULL WHERE tenant_id = %s AND queue = 'q'", client.user.tenant_id
        )
        await client.scheduler.create(queue="q")

    when_closed(open_it)
    assert await refused(client.delete("q")) == NOT_EMPTY
    # It is not left closed.
    await client.scheduler.create(queue="q")


async def test_a_closed_queue_whose_deletion_died_opens_by_itself(client: Client, tables: Tables, when_closed: Any) -> None:
    async def die() -> None:
        raise RuntimeError("as if its process had")

    when_closed(die)
    with pytest.raises(grpc.aio.AioRpcError):
        await client.delete("q")
    assert await refused(client.scheduler.create(queue="q")) == (grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND")
    closed = "SELECT closed_until - clock_timestamp() FROM queues WHERE tenant_id = %s AND queue = 'q'"
    assert timedelta() < tables.one(closed, client.user.tenant_id) < timedelta(seconds=16)
    tables.query("UPDATE queues SET closed_until = clock_timestamp() WHERE tenant_id = %s AND queue = 'q'", client.user.tenant_id)
    task = await client.scheduler.create(queue="q")
    assert await refused(client.delete("q")) == NOT_EMPTY
    await client.scheduler.cancel(task.task_id)
    await client.delete("q")


async def test_the_statement_that_creates_tasks_is_planned_once_a_connection(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That it looks for queues makes PostgreSQL believe that each call is worth a plan, which takes longer than the look.
    planned: list[tuple[int, int]] = []
    create = batches.create_tasks

    async def watched(connection: Any, *rest: Any) -> Any:
        answers = await create(connection, *rest)
        kept = "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement LIKE '%INSERT INTO tasks%'"
        planned.extend((row[0], row[1]) for row in await connection.fetch(kept))
        return answers

    monkeypatch.setattr(batches, "create_tasks", watched)
    for _ in range(3):
        await client.scheduler.create()
    assert planned
    assert {custom for custom, _ in planned} == {0}
    assert all(generic for _, generic in planned)


async def test_a_change_is_told_once_of_its_owner_alone_also_one_by_hand(client: Client, tables: Tables) -> None:
    def heard(connection: Any) -> list[str]:
        connection.poll()
        found = [notify.payload for notify in connection.notifies if notify.payload.startswith("@")]
        connection.notifies.clear()
        return found

    owner = client.user.tenant_id
    with closing(psycopg2.connect(tables.url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("LISTEN guildmesh_dispatch")
            told = [f"@{owner}"]
            await client.create("told", priority=2)
            cursor.execute("SELECT 1")
            assert heard(connection) == told
            # By hand, and the scheduler goes by it.
            tables.query("UPDATE queues SET max_attempts = 3 WHERE queue = 'told'")
            cursor.execute("SELECT 1")
            assert heard(connection) == told
            async with asyncio.timeout(20):
                while (await client.scheduler.create(queue="told")).max_attempts != 3:  # noqa: ASYNC110 - told by PostgreSQL
                    await asyncio.sleep(0.02)
            tables.query(
                "UPDATE queues SET priority = priority WHERE tenant_id IN ('*', %s) AND queue IN ('told', 'code')", owner
            )
            cursor.execute("SELECT 1")
            assert sorted(heard(connection)) == sorted([*told, "@*"])
