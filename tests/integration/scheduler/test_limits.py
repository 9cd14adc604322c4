"""What the limits of a queue promise, by a running scheduler."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb

from services.common.context import Principal
from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import BareWorker, MakeSettings, Scheduler, unique
from tests.integration.scheduler.queue_rows import QueueRows
from tests.support.service import metadata, running


@pytest.fixture
def rows(scheduler_settings: MakeSettings) -> Iterator[QueueRows]:
    rows = QueueRows(scheduler_settings().database_url.get_secret_value())
    yield rows
    rows.close()


@pytest.fixture
async def scheduler(scheduler_settings: MakeSettings, scheduler_tls: Path) -> AsyncIterator[Scheduler]:
    """One whose leases are long enough for workers that look on for a while."""
    settings = scheduler_settings(lease_seconds=20.0, heartbeat_seconds=2.0)
    async with running(open_service, settings, scheduler_tls) as server:
        yield Scheduler(server)


async def settled(rows: QueueRows, scheduler: Scheduler, **limits: Any) -> str:
    """A queue of the tenant's own, with limits that hold."""
    queue = unique("q")
    rows.add(queue, scheduler.ada.tenant_id, **limits)
    await rows.decided(queue, scheduler.ada.tenant_id)
    return queue


async def steady(rows: QueueRows, queue: str, number: int, seconds: float = 0.4) -> None:
    """So many tasks of the queue run, and it stays so for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert rows.running(queue) == number
        await asyncio.sleep(0.01)


@asynccontextmanager
async def alive(worker: BareWorker, leases: Sequence[worker_pb.TaskLease]) -> AsyncIterator[None]:
    """The worker's runs keep their leases meanwhile."""

    async def beat() -> None:
        while True:
            beats = [worker_pb.TaskHeartbeat(task_id=lease.task.task_id, attempt=lease.task.attempt) for lease in leases]
            await worker.send(heartbeats=beats)
            await asyncio.sleep(0.5)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()


async def test_no_more_run_than_may_and_each_way_to_end_makes_room(scheduler: Scheduler, rows: QueueRows) -> None:
    queue = await settled(rows, scheduler, max_running=1)
    tasks = [await scheduler.create(str(number), queue=queue) for number in range(4)]
    async with scheduler.worker() as worker:
        first = await worker.lease()
        assert first.task.task_id == tasks[0].task_id
        await steady(rows, queue, 1)
        await worker.complete(first)
        second = await worker.lease()
        await steady(rows, queue, 1)
        await worker.fail(second, retryable=False)
        third = await worker.lease()
        await scheduler.cancel(third.task.task_id)
        fourth = await worker.lease()
        assert [second.task.task_id, third.task.task_id, fourth.task.task_id] == [task.task_id for task in tasks[1:]]
        await worker.complete(fourth)


async def test_a_task_between_two_attempts_has_no_slot_and_takes_one_again(scheduler: Scheduler, rows: QueueRows) -> None:
    queue = await settled(rows, scheduler, max_running=1)
    policy = task_pb2.RetryPolicy()
    policy.initial_backoff.FromMilliseconds(600)
    policy.max_backoff.FromMilliseconds(600)
    policy.jitter = 0
    first = await scheduler.create("first", queue=queue, retry_policy=policy)
    second = await scheduler.create("second", queue=queue)
    async with scheduler.worker() as worker:
        await worker.fail(await worker.lease(), retryable=True)
        other = await worker.lease()
        assert other.task.task_id == second.task_id
        await scheduler.until_event(first.task_id, "ready")
        await steady(rows, queue, 1)
        await worker.complete(other)
        again = await worker.lease()
        assert (again.task.task_id, again.task.attempt) == (first.task_id, 2)
        await worker.complete(again)


async def test_a_task_that_waits_for_a_signal_has_no_slot(scheduler: Scheduler, rows: QueueRows) -> None:
    queue = await settled(rows, scheduler, max_running=1)
    first, second = [await scheduler.create(name, queue=queue) for name in ("first", "second")]
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        wait = worker_pb.TaskWait(task_id=lease.task.task_id, attempt=1, signal="go", timeout=Duration(seconds=1))
        await worker.send(waits=[wait])
        await worker.answer("acks")
        other = await worker.lease()
        assert other.task.task_id == second.task_id
        await scheduler.until_event(first.task_id, "ready")
        await steady(rows, queue, 1)
        await worker.complete(other)
        again = await worker.lease()
        assert (again.task.task_id, again.task.attempt, again.steps[0].step_id) == (first.task_id, 2, "go")
        await worker.complete(again)


async def test_a_task_of_a_lost_worker_keeps_its_slot_until_its_lease_ends(
    rows: QueueRows, scheduler_settings: MakeSettings, scheduler_tls: Path
) -> None:
    async with running(open_service, scheduler_settings(), scheduler_tls) as server:
        scheduler = Scheduler(server)
        queue = await settled(rows, scheduler, max_running=1)
        task = await scheduler.create("it", queue=queue)
        async with scheduler.worker() as lost:
            await lost.lease()
        async with scheduler.worker() as worker:
            again = await worker.lease()
            assert (again.task.task_id, again.task.attempt) == (task.task_id, 2)
            await worker.complete(again)


async def test_of_a_key_no_more_run_than_may(scheduler: Scheduler, rows: QueueRows) -> None:
    queue = await settled(rows, scheduler, max_running_per_key=1)
    keys = ("x", "x", "y", "")
    tasks = [await scheduler.create(str(place), queue=queue, concurrency_key=key) for place, key in enumerate(keys)]
    assert [task.concurrency_key for task in tasks] == list(keys)
    async with scheduler.worker() as worker:
        leases = [await worker.lease() for _ in range(3)]
        assert {lease.task.task_id for lease in leases} == {tasks[place].task_id for place in (0, 2, 3)}
        assert {lease.task.concurrency_key for lease in leases} == {"x", "y", ""}
        await steady(rows, queue, 3)
        for lease in leases:
            await worker.complete(lease)
        last = await worker.lease()
        assert last.task.task_id == tasks[1].task_id
        await worker.complete(last)


async def test_a_queue_of_all_counts_all_tenants_and_a_tenants_own_is_its_own(scheduler: Scheduler, rows: QueueRows) -> None:
    queue = unique("q")
    rows.add(queue, max_running=1)
    other, owner = (Principal("x", unique("tenant"), frozenset({"user"})) for _ in range(2))
    rows.add(queue, owner.tenant_id)
    await rows.decided(queue)
    own = await scheduler.create("own", queue=queue, by=owner)
    mine = await scheduler.create("mine", queue=queue)
    theirs = await scheduler.create("theirs", queue=queue, by=other)
    channel = scheduler.server.channel("agent")
    worker = BareWorker(channel, metadata(scheduler.ada, via="agent"))
    await worker.hello(10, kinds=[scheduler.kind], worker_id=unique("w"), all_tenants=True)
    leases = [await worker.lease(), await worker.lease()]
    assert own.task_id in {lease.task.task_id for lease in leases} < {own.task_id, mine.task_id, theirs.task_id}
    await steady(rows, queue, 2)
    for lease in leases:
        await worker.complete(lease)
    await worker.complete(await worker.lease())
    worker.call.cancel()


async def test_a_pause_holds_from_the_answer_on_and_what_runs_goes_on(scheduler: Scheduler, rows: QueueRows) -> None:
    queue = await settled(rows, scheduler, max_running=5)
    first = await scheduler.create("first", queue=queue)
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        rows.change(queue, paused=True)
        second = await scheduler.create("second", queue=queue)
        await steady(rows, queue, 1, 1.5)
        await worker.complete(lease)
        assert (await scheduler.get(first.task_id)).status == "completed"
        rows.change(queue, paused=False)
        lease = await worker.lease()
        assert lease.task.task_id == second.task_id
        await worker.complete(lease)


async def test_limits_are_changed_while_tasks_run(scheduler: Scheduler, rows: QueueRows) -> None:
    queue = await settled(rows, scheduler, max_running=1)
    for number in range(6):
        await scheduler.create(str(number), queue=queue)
    async with scheduler.worker() as worker:
        leases = [await worker.lease()]
        rows.change(queue, max_running=3)
        leases += [await worker.lease(), await worker.lease()]
        await steady(rows, queue, 3)
        rows.change(queue, max_running=2)
        await worker.complete(leases.pop())
        await steady(rows, queue, 2)
        rows.change(queue, max_running=None)
        leases += [await worker.lease() for _ in range(3)]
        for lease in leases:
            await worker.complete(lease)


async def test_a_rate_lets_so_many_start(scheduler: Scheduler, rows: QueueRows) -> None:
    queue = await settled(rows, scheduler, rate_per_second=5.0, rate_burst=1)
    tasks = [await scheduler.create(str(number), queue=queue) for number in range(6)]
    async with scheduler.worker() as worker:
        for _ in tasks:
            await worker.complete(await worker.lease())
    moments = sorted([(await scheduler.get(task.task_id)).start_time.ToDatetime() for task in tasks])
    # A start is decided a little before its time is taken, so a single gap may be shorter.
    assert (moments[-1] - moments[0]).total_seconds() > 0.9


async def test_a_queue_that_comes_to_have_limits_takes_along_what_waits_and_runs(scheduler: Scheduler, rows: QueueRows) -> None:
    queue = unique("q")
    rows.add(queue, scheduler.ada.tenant_id)
    tasks = [await scheduler.create(str(number), queue=queue, concurrency_key="x") for number in range(4)]
    async with scheduler.worker(credits=2) as worker:
        leases = [await worker.lease(), await worker.lease()]
        rows.change(queue, max_running_per_key=2)
        async with alive(worker, leases):
            await rows.decided(queue, scheduler.ada.tenant_id, settled=True)
            await worker.send(credits=10)
            await steady(rows, queue, 2)
            await worker.complete(leases.pop())
            leases.append(await worker.lease())
            await steady(rows, queue, 2)
            # And back: what waits starts, whoever decides on it.
            rows.change(queue, max_running_per_key=None)
            leases.append(await worker.lease())
            while leases:
                await worker.complete(leases.pop())
    for task in tasks:
        assert (await scheduler.get(task.task_id)).status == "completed"


async def test_plain_tasks_and_others_share_the_slots_of_a_worker(scheduler: Scheduler, rows: QueueRows) -> None:
    limited = await settled(rows, scheduler, max_running=100)
    plain = unique("q")
    rows.add(plain, scheduler.ada.tenant_id)
    for number in range(20):
        await scheduler.create(str(number), queue=limited)
        await scheduler.create(str(number), queue=plain)
    async with scheduler.worker(credits=4) as worker:
        queues = []
        for _ in range(20):
            lease = await worker.lease()
            queues.append(lease.task.queue)
            await worker.complete(lease)
            await worker.send(credits=1)
    assert 5 <= queues.count(plain) <= 15


async def test_a_queue_in_which_two_tenants_wait_is_shared(scheduler: Scheduler, rows: QueueRows) -> None:
    queue = unique("q")
    rows.add(queue, tenant_weights={scheduler.ada.tenant_id: 1})
    bob = Principal("bob", unique("globex"), frozenset({"user"}))
    for number in range(30):
        await scheduler.create(str(number), queue=queue)
    await scheduler.create("his", queue=queue, by=bob)
    await rows.decided(queue)
    worker = BareWorker(scheduler.server.channel("agent"), metadata(bob, via="agent"))
    await worker.hello(1, kinds=[scheduler.kind], worker_id=unique("w"), all_tenants=True)
    served = []
    for _ in range(31):
        lease = await worker.lease()
        served.append(lease.task.tenant_id)
        await worker.complete(lease)
        await worker.send(credits=1)
    worker.call.cancel()
    # Whoever waits behind thirty of another is among the first nevertheless.
    assert served.index(bob.tenant_id) < 10


async def test_another_scheduler_takes_over_when_one_stops(
    scheduler: Scheduler, rows: QueueRows, scheduler_settings: MakeSettings, scheduler_tls: Path
) -> None:
    queue = await settled(rows, scheduler, max_running=1)
    async with running(open_service, scheduler_settings(), scheduler_tls) as second:
        both = Scheduler(second, scheduler.ada)
        both.kind = scheduler.kind
        tasks = [await scheduler.create(str(number), queue=queue) for number in range(3)]
        async with both.worker() as worker:
            lease = await worker.lease()
            await scheduler.server.running.stop()
            await steady(rows, queue, 1)
            await worker.complete(lease)
            for _ in tasks[1:]:
                await worker.complete(await worker.lease())
