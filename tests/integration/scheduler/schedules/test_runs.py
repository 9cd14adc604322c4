"""Schedules on real PostgreSQL: each time has one run, whatever dies, whoever else looks, and however late it is.

Nobody waits for the minute: a schedule becomes due by moving what it has to do next into the past, in its row. What is then done
is done by the code that does it always, by the database's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from guildmesh.scheduler.v1 import task_pb2

from services.common.failpoints import CRASH_STATUS
from services.common.telemetry.tracing import is_traceparent
from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.processes import Process
from tests.integration.scheduler.schedules.conftest import (
    ALLOW,
    BUFFER_ONE,
    CANCEL_RUNNING,
    LABEL,
    MISSED_SKIP,
    RUN_ALL,
    RUN_LAST,
    Client,
    Store,
)
from tests.support.service import running


async def test_a_run_is_a_task_like_any_other_and_says_where_it_comes_from(client: Client, store: Store) -> None:
    template = task_pb2.Task(description="report", kind=client.scheduler.kind, queue="research", labels={"team": "a"})
    template.context.update({"year": 2026})
    await client.create("minutely", cron="* * * * *", task=template)
    assert await client.tasks() == []
    store.past("minutely", 0)
    # Workers wait already: the commit's notification is what wakes them.
    async with client.scheduler.worker() as worker:
        assert await store.fire() == 1
        lease = await worker.lease()
        assert dict(lease.task.context) == {"year": 2026}
        assert is_traceparent(lease.traceparent)
        assert (lease.task.description, lease.task.queue, lease.task.created_by) == ("report", "research", "ada")
        label = datetime.fromisoformat(lease.task.labels[LABEL])
        assert dict(lease.task.labels) == {"team": "a", "guildmesh.schedule_id": "minutely", LABEL: lease.task.labels[LABEL]}
        assert (label.tzinfo, label.second) == (UTC, 0)
        await worker.complete(lease)
    events = await client.scheduler.watch(lease.task.task_id)
    assert [event.number for event in events] == [1, 2, 3]
    schedule = await client.get("minutely")
    assert (schedule.run_count, schedule.last_task_id) == (1, lease.task.task_id)
    assert schedule.next_run_time.ToDatetime(UTC) > label
    assert schedule.last_run_time.ToDatetime(UTC) >= label
    store.sound()


async def test_a_scheduler_starts_what_is_due_by_itself(own_settings: MakeSettings, scheduler_tls: Path, store: Store) -> None:
    async with running(open_service, own_settings(schedule_poll_seconds=0.1), scheduler_tls) as server:
        client = Client(Scheduler(server))
        await client.create("s")
        store.past("s", 0)
        async with client.scheduler.worker() as worker:
            await worker.complete(await worker.lease())
    assert store.one("SELECT run_count FROM schedules") == 1


# Nobody was there for the runs of ten minutes ago and since then.
@pytest.mark.parametrize(("policy", "started"), [(MISSED_SKIP, 1), (RUN_LAST, 1), (RUN_ALL, 11)])
async def test_a_scheduler_that_was_away_makes_up_for_it_as_the_policy_says(
    client: Client, store: Store, policy: Any, started: int
) -> None:
    await client.create("s", cron="* * * * *", missed_run_policy=policy, overlap_policy=ALLOW)
    store.past("s", 10)
    await store.fire()
    schedule = await client.get("s")
    # The test itself may see the next minute begin.
    assert started <= schedule.run_count <= started + 1
    assert schedule.run_count + schedule.skipped_count in (11, 12)
    labels = [datetime.fromisoformat(task.labels[LABEL]) for task in await client.tasks()]
    assert labels == sorted(set(labels))
    assert len(labels) == schedule.run_count
    assert schedule.next_run_time.ToDatetime(UTC) > max(labels)


@pytest.mark.parametrize(("policy", "started"), [(MISSED_SKIP, 0), (RUN_LAST, 1), (RUN_ALL, 1)])
async def test_one_run_of_the_day_that_was_missed(client: Client, store: Store, policy: Any, started: int) -> None:
    await client.create("s", missed_run_policy=policy)
    store.past("s", 125)
    await store.fire()
    schedule = await client.get("s")
    assert (schedule.run_count, schedule.skipped_count) == (started, 1 - started)


async def test_what_is_too_late_is_skipped_whatever_the_policy(client: Client, store: Store) -> None:
    await client.create("s", missed_run_policy=RUN_ALL, catch_up_window=timedelta(minutes=90))
    store.past("s", 125)
    await store.fire()
    schedule = await client.get("s")
    assert (schedule.run_count, schedule.skipped_count) == (0, 1)


async def test_a_long_outage_is_made_up_for_in_small_turns(client: Client, store: Store, limits: Callable[..., None]) -> None:
    await client.create("all", cron="* * * * *", missed_run_policy=RUN_ALL, overlap_policy=ALLOW)
    await client.create("last", cron="* * * * *")
    store.past("all", 100)
    store.past("last", 100)
    limits(TIMES=30, RUNS=7)
    assert await store.fire() >= 15
    everything, last = await client.get("all"), await client.get("last")
    assert everything.run_count in (101, 102)
    assert everything.skipped_count == 0
    assert last.run_count == 1
    assert last.skipped_count in (100, 101)
    assert len({task.labels[LABEL] for task in await client.tasks("all")}) == everything.run_count


async def test_replicas_that_look_at_once_start_each_run_once(client: Client, store: Store, limits: Callable[..., None]) -> None:
    for number in range(40):
        await client.create(f"s{number}", cron="* * * * *", missed_run_policy=RUN_ALL, overlap_policy=ALLOW)
    store.query("UPDATE schedules SET next_time = now() - interval '2 minutes', wake_time = now() - interval '2 minutes'")
    limits(SCHEDULES=7)
    await asyncio.gather(*(store.fire() for _ in range(4)))
    # A replica may end while another has the rest in hand.
    await store.fire()
    runs = [(task.labels["guildmesh.schedule_id"], task.labels[LABEL]) for task in await client.tasks()]
    assert len(runs) == len(set(runs))
    assert {schedule for schedule, _ in runs} == {f"s{number}" for number in range(40)}
    assert store.one("SELECT sum(run_count) FROM schedules") == len(runs)
    store.sound()


@pytest.mark.parametrize(("place", "committed"), [("before", 0), ("after", 1)])
async def test_a_scheduler_that_dies_around_its_commit_leaves_one_task_for_each_time(
    client: Client, store: Store, scheduler_tls: Path, tmp_path: Path, place: str, committed: int
) -> None:
    await client.create("s", overlap_policy=ALLOW)
    store.past("s", 0)
    environment = {
        "DATABASE_URL": store.url,
        "GUILDMESH_TLS_DIR": str(scheduler_tls / "scheduler"),
        "GUILDMESH_PORT": "0",
        "GUILDMESH_ADMIN_PORT": "0",
        "GUILDMESH_FAILPOINTS": f"scheduler.fire.{place}_commit=crash@1",
    }
    process = Process("services.scheduler", environment, tmp_path / "scheduler.log")
    await process.start()
    assert process._process is not None
    try:
        async with asyncio.timeout(30):
            assert await process._process.wait() == CRASH_STATUS, process.tail()
    finally:
        if process._process.returncode is None:
            await process.kill()
    assert len(await client.tasks()) == committed
    await store.fire()
    assert len(await client.tasks()) == 1
    assert (await client.get("s")).run_count == 1
    store.sound()


async def test_the_request_id_is_a_second_lock(client: Client, store: Store) -> None:
    """A row that is set back, as by a backup of an older state, starts nothing again that has its task still."""
    await client.create("s", overlap_policy=ALLOW)
    store.past("s", 0)
    before = store.query("SELECT next_time FROM schedules")[0][0]
    await store.fire()
    store.query("UPDATE schedules SET next_time = %s, wake_time = %s", before, before)
    await store.fire()
    assert len(await client.tasks()) == 1
    assert (await client.get("s")).run_count == 1


async def test_overlapping_runs_are_skipped_by_default(client: Client, store: Store) -> None:
    await client.create("s")
    async with client.scheduler.worker() as worker:
        for minutes in (5, 4, 3):
            store.past("s", minutes)
            await store.fire()
        lease = await worker.lease()
        schedule = await client.get("s")
        assert (schedule.run_count, schedule.skipped_count) == (1, 2)
        await worker.complete(lease)
        store.past("s", 2)
        await store.fire()
        assert (await worker.lease()).task.task_id != lease.task.task_id
    assert (await client.get("s")).run_count == 2


async def test_overlapping_runs_that_are_allowed_run_beside_each_other(client: Client, store: Store) -> None:
    await client.create("s", overlap_policy=ALLOW)
    for minutes in (2, 1, 0):
        store.past("s", minutes)
        await store.fire()
    assert len(await client.tasks()) == 3


async def test_one_overlapping_run_waits_for_the_end_of_the_one_before(client: Client, store: Store) -> None:
    await client.create("s", overlap_policy=BUFFER_ONE)
    async with client.scheduler.worker() as worker:
        for minutes in (3, 2, 1, 0):
            store.past("s", minutes)
            await store.fire()
        first = await worker.lease()
        schedule = await client.get("s")
        assert (schedule.run_count, schedule.skipped_count) == (1, 2)
        waiting = store.one("SELECT buffered_time FROM schedules")
        assert await store.fire() == 0, "the run before goes on"
        await worker.complete(first)
        await store.fire()
        second = await worker.lease()
        times = [datetime.fromisoformat(lease.task.labels[LABEL]) for lease in (first, second)]
        assert times[0] < times[1] == waiting
        await worker.complete(second)
        assert await store.fire() == 0
    assert (await client.get("s")).run_count == 2
    store.sound()


async def test_overlapping_runs_may_be_cancelled_with_their_subtasks(client: Client, store: Store) -> None:
    await client.create("s", overlap_policy=CANCEL_RUNNING)
    store.past("s", 1)
    await store.fire()
    async with client.scheduler.worker(credits=1) as worker:
        lease = await worker.lease()
        child = await client.scheduler.create("part of it", kind=unique("kind"), parent_task_id=lease.task.task_id)
        store.past("s", 0)
        await store.fire()
        assert (await worker.answer("cancels")).reason == "CANCELLED"
    old, part = await client.scheduler.get(lease.task.task_id), await client.scheduler.get(child.task_id)
    assert (old.status, part.status) == ("cancelled", "cancelled")
    first, second = await client.tasks("s")
    assert (first.task_id, second.status) == (old.task_id, "pending")
    assert (await client.get("s")).run_count == 2
    store.sound()
