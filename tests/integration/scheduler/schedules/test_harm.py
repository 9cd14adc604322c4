"""Schedules that cannot run, and that nothing of them keeps the others from running."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from guildmesh.scheduler.v1 import task_pb2

from services.scheduler.domain.errors import ParentTaskEnded
from services.scheduler.storage import create_batch, fire_batch
from tests.integration.scheduler.schedules.conftest import Client, Store

# What harm is done to a schedule, and what it says then.
HARMS = {
    "its zone is no longer known": ("UPDATE schedules SET time_zone = 'Mars/Base'", "No time zone"),
    "its expression is no longer read": ("UPDATE schedules SET cron = '* * *'", "cron expression"),
    "its task cannot be read": (r"UPDATE schedules SET task = '\xff'", "It cannot run"),
    "its task does not fit into a row": (
        # Field 7 of Task, the priority: 100,000.
        r"UPDATE schedules SET task = task || '\x38a08d06'",
        "It cannot run",
    ),
}


async def test_schedules_that_cannot_run_are_paused_with_the_reason_and_stop_no_other(client: Client, store: Store) -> None:
    bad = {f"bad-{number}": told for number, (_, told) in enumerate(HARMS.values())}
    for name in ("a", *bad, "z"):
        await client.create(name)
        store.past(name, 0)
    for name, (statement, _) in zip(bad, HARMS.values(), strict=True):
        store.query(statement + " WHERE schedule_id = %s", name)
    # The bad ones are the first in line, again and again.
    store.query("UPDATE schedules SET wake_time = wake_time - interval '1 s' WHERE schedule_id LIKE 'bad-%%'")
    before = fire_batch.broken._value.get()
    await store.fire()
    assert dict(store.query("SELECT schedule_id, run_count FROM schedules")) == {"a": 1, "z": 1} | dict.fromkeys(bad, 0)
    for name, paused, error in store.query("SELECT schedule_id, paused, last_error FROM schedules WHERE run_count = 0"):
        assert paused, name
        assert bad[name] in error, name
    assert fire_batch.broken._value.get() == before + len(bad)
    assert await store.fire() == 0
    store.sound()


async def test_a_run_without_its_queue_is_told_and_the_next_one_starts_when_the_queue_is_back(
    client: Client, store: Store
) -> None:
    await client.create("s", task=task_pb2.Task(description="x", queue="code"))
    await client.create("good")
    store.query("DELETE FROM queues WHERE queue = 'code'")
    store.past("s", 0)
    store.past("good", 0)
    await store.fire()
    schedule = await client.get("s")
    assert (schedule.run_count, schedule.skipped_count, schedule.paused) == (0, 1, False)
    assert "No queue 'code'" in schedule.last_error
    assert (await client.get("good")).run_count == 1
    store.query("INSERT INTO queues (queue, priority) VALUES ('code', 5)")
    store.past("s", 0)
    await store.fire()
    schedule = await client.get("s")
    assert (schedule.run_count, schedule.last_error) == (1, "")


async def test_a_task_that_is_refused_is_told_and_the_others_start(
    client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "good"):
        await client.create(name)
        store.past(name, 0)

    async def create_tasks(connection: Any, clock: Any, log: Any, items: Any, *more: Any) -> list[Any]:
        """As the real one answers a task that it refuses, such as one whose deadline is over."""
        refused = [item for item in items if item.labels["guildmesh.schedule_id"] == "bad"]
        answers = iter(await create_batch.create_tasks(connection, clock, log, [i for i in items if i not in refused], *more))
        return [ParentTaskEnded("x") if item in refused else next(answers) for item in items]

    monkeypatch.setattr(fire_batch, "create_tasks", create_tasks)
    await store.fire()
    bad, good = await client.get("bad"), await client.get("good")
    assert (bad.run_count, bad.skipped_count, bad.paused) == (0, 1, False)
    assert "parent task has ended" in bad.last_error
    assert (good.run_count, good.skipped_count) == (1, 0)


async def test_what_is_wrong_with_the_database_pauses_nobody(client: Client, store: Store) -> None:
    await client.create("s")
    store.past("s", 0)

    def broken(*_: object) -> Any:
        raise AssertionError("a fault of ours")

    replica = store.replica()
    replica._check_queues = broken  # type: ignore[method-assign]
    assert (await replica.fire()).schedules == 0
    assert not (await client.get("s")).paused
    await store.fire()
    assert (await client.get("s")).run_count == 1


async def test_a_thousand_schedules_that_are_due_at_once(client: Client, store: Store) -> None:
    await client.create("s0")
    columns = store.one(
        "SELECT string_agg(column_name, ', ') FROM information_schema.columns"
        " WHERE table_name = 'schedules' AND column_name NOT IN ('schedule_id', 'uid')",
    )
    store.query(
        f"INSERT INTO schedules (schedule_id, uid, {columns})"
        f" SELECT 's' || n, gen_random_uuid(), {columns} FROM schedules, generate_series(1, 999) n"
    )
    store.query("UPDATE schedules SET next_time = now(), wake_time = now()")
    turns = sum(await asyncio.gather(store.fire(), store.fire()))
    await store.fire()
    assert 4 <= turns <= 12
    assert store.one("SELECT count(*) FROM schedules WHERE run_count = 1 AND skipped_count = 0") == 1000
    assert store.one("SELECT count(*) FROM tasks") == 1000
    late = "SELECT extract(epoch FROM max(last_run_time) - min(last_run_time))::float FROM schedules"
    assert store.one(late) < 10
    store.sound()
