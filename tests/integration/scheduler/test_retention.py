"""Ended tasks are kept as long as their class says, and leave after their tombstones: on real PostgreSQL and Kafka."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg2
import pytest
from guildmesh.events.v1.task_event_pb2 import TaskSnapshot

from services.common.db.driver import open_driver
from services.common.db.engine_role import EngineDriver
from services.common.errors import ConcurrentChange, DependencyUnavailable
from services.common.failpoints import POINTS, Failpoints, fail_point
from services.embedded.data_check import check_data
from services.scheduler.bootstrap import open_service
from services.scheduler.domain.ports import Progress
from services.scheduler.domain.shards import shard_of
from services.scheduler.storage import expiry, partitions
from services.scheduler.storage.expiry import Expiry
from services.scheduler.storage.partitions import AHEAD, PERIODS, Partitions, start_of
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.test_counts import counted
from tests.integration.scheduler.test_payloads import Uploads, until
from tests.integration.scheduler.test_relay import (  # noqa: F401 - fixtures
    MakeRelay,
    own_settings,
    reading,
    relay_settings,
    relaying,
)
from tests.support.past import ended_tasks
from tests.support.service import running


@dataclass
class Store:
    """The storage of a scheduler, without one that works on it."""

    url: str
    driver: Any

    def __post_init__(self) -> None:
        engine = EngineDriver(self.driver)
        self.partitions = Partitions(engine, 30)
        self.expiry = Expiry(engine)

    def query(self, statement: str, *arguments: object) -> list[Any]:
        connection = psycopg2.connect(self.url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("SET ROLE scheduler_engine; SET search_path = scheduler")
                cursor.execute(statement, arguments)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def kept(self) -> set[str]:
        """The ids of all tasks that a reader sees."""
        return {row[0] for row in self.query("SELECT task_id::text FROM finished_tasks UNION SELECT task_id::text FROM tasks")}

    def leaving(self) -> list[str]:
        return [row[0] for row in self.query("SELECT name FROM task_partitions WHERE detach_time IS NOT NULL")]

    def sound(self) -> None:
        """What is left fits together."""
        assert [text for finding in check_data(self.url) for text in finding.problems] == []

    async def go_on(self, seconds: float = 30) -> None:
        """Takes steps until nothing is left to do, as ExpireTasks does."""
        async with asyncio.timeout(seconds):
            while True:
                progress = max(await self.expiry.expire_rest(), await self.expiry.expire_partition())
                if progress is Progress.WAITING:
                    await asyncio.sleep(0.02)
                elif progress is Progress.NOTHING and await self.partitions.detach() is None:
                    return


@pytest.fixture
async def store(own_settings: MakeSettings) -> AsyncIterator[Store]:  # noqa: F811 - the fixture
    settings = own_settings()
    async with open_driver(settings, "scheduler") as driver:
        yield Store(settings.database_url.get_secret_value(), driver)


@asynccontextmanager
async def state_of(settings: Any) -> AsyncIterator[Callable[[set[str]], Any]]:
    """A stranger who rebuilds the tasks from the compacted topic; gives what waits until it has exactly these."""
    async with reading(settings, settings.state_topic) as reader:

        async def until(wanted: set[str]) -> None:
            def rebuilt(records: list[Any]) -> bool:
                state: dict[str, TaskSnapshot] = {}
                for record in records:
                    key = record.key.decode()
                    if record.value is None:
                        state.pop(key, None)
                    else:
                        state[key] = TaskSnapshot.FromString(record.value)
                return state.keys() == wanted

            await reader.until(rebuilt)

        yield until


async def test_what_was_kept_long_enough_leaves_the_api_kafka_and_the_tables(
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    scheduler_tls: Path,
    store: Store,
    tmp_path: Path,
) -> None:
    store.query("UPDATE queues SET retention_days = 1 WHERE queue = 'code'")
    store.query("UPDATE queues SET retention_days = 0 WHERE queue = 'research'")
    relay = relay_settings()
    async with (
        running(open_service, own_settings(retention_seconds=0.1, **swept_often(tmp_path)), scheduler_tls) as server,
        relaying(relay),
        state_of(relay) as rebuilt,
    ):
        scheduler = Scheduler(server)
        uploads = Uploads(scheduler, tmp_path)
        leaving, staying = [(await uploads.up(body)).payload_id for body in (b"{}", b'{"a": 1}')]
        old = [
            await scheduler.create(str(n), queue="code", request_id=f"again-{n}", context_payload=leaving if n else staying)
            for n in range(6)
        ]
        ever = await scheduler.create("never goes", queue="research")
        new = await scheduler.create("stays", context_payload=staying)
        async with scheduler.worker(credits=8) as worker:
            for _ in range(8):
                await worker.complete(await worker.lease())
        ids = {task.task_id for task in (*old, ever, new)}
        await rebuilt(ids)
        assert store.query("SELECT retention_days, count(*) FROM finished_tasks GROUP BY 1 ORDER BY 1") == [
            (0, 1),
            (1, 6),
            (30, 1),
        ]
        assert store.query("SELECT count(*) FROM finished_tasks_1_rest") == [(0,)], "nobody made a partition in time"
        # Two days go by for all of them, and one task was a day later.
        aged = "UPDATE finished_tasks SET finish_time = finish_time - interval '2 days'"
        store.query(aged)
        store.query("UPDATE task_partitions SET upper_time = upper_time - interval '2 days' WHERE retention_days = 1")
        gone = {task.task_id for task in old}
        await rebuilt(ids - gone)
        async with asyncio.timeout(10):
            while store.leaving() or store.query("SELECT request_id FROM task_requests"):  # noqa: ASYNC110 - the service does it
                await asyncio.sleep(0.05)
        assert store.kept() == ids - gone
        for task in old:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await scheduler.get(task.task_id)
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        told, scanned = await counted(store.driver)
        assert +told == scanned
        # A request id is free again when its task is gone.
        again = await scheduler.create("0", queue="code", request_id="again-0")
        assert again.task_id not in gone
        assert (await scheduler.create("0", queue="code", request_id="again-0")).task_id == again.task_id
        store.sound()
        # The payloads of the tasks that are gone went with the last of each.
        await until(lambda: len(uploads.files()) == 1)
        assert (await uploads.down(staying))[1] == b'{"a": 1}'


def swept_often(folder: Path) -> dict[str, Any]:
    """Settings with which a payload that nothing uses any more goes at once, and one that nothing uses yet soon."""
    seconds = {"payload_sweep_seconds": 0.1, "payload_check_seconds": 0.1, "payload_unused_seconds": 5}
    return {"object_store_url": folder.as_uri(), **seconds}


async def test_it_goes_on_after_a_failure_at_any_place(
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(expiry, "BLOCKS", 1)
    monkeypatch.setattr(expiry, "ROWS", 7)
    relay = relay_settings()
    tenant = unique("past")
    await store.partitions.add()
    kept = set(ended_tasks(store.url, 3, tenant, days=90, ago=timedelta(days=2), partition=False))
    stems = {"add_partition": 0, "detach_partition": 0, "expire": 0, "expire_rest": 0, "drop_partition": 0}
    places = [name for name in POINTS if name.split(".")[1] in stems]
    assert len(places) == 2 * len(stems)
    async with relaying(relay), state_of(relay) as rebuilt:
        for name in places:
            # Two portions each.
            ended_tasks(store.url, 9, tenant, long=True)
            ended_tasks(store.url, 9, tenant, partition=False)
            ended_tasks(store.url, 5, tenant, failed=True)
            ended_tasks(store.url, 5, tenant, failed=True, partition=False)
            hits: list[str] = []
            rule = f"{name}={'cut' if 'before' in name else 'error'}@1"
            broken = Failpoints(rule, tell=hits.append).reach
            for module in (expiry, partitions):
                monkeypatch.setattr(module, "fail_point", broken)
            days = 7 if "before" in name else 90
            with pytest.raises(DependencyUnavailable):
                if "add_partition" in name:
                    store.query("UPDATE queues SET retention_days = %s WHERE queue = 'code'", days)
                    await store.partitions.add()
                await store.go_on()
            assert hits, f"{name} was not visited"
            # Another process goes on.
            for module in (expiry, partitions):
                monkeypatch.setattr(module, "fail_point", fail_point)
            await store.partitions.add()
            await store.go_on()
            assert store.kept() == kept, name
        # Whatever a round left behind is there still.
        await rebuilt(kept)
        store.sound()
    wanted = "SELECT count(*) FROM task_partitions WHERE retention_days IN (7, 90) AND lower_id IS NOT NULL"
    assert store.query(wanted) == [(2 * (AHEAD + 1),)]
    assert store.query("SELECT count(*) FROM task_events") == [(0,)]
    assert store.query("SELECT count(*) FROM task_requests") == [(len(kept),)]
    told, scanned = await counted(store.driver)
    assert +told == scanned


async def test_nothing_is_dropped_while_kafka_is_away_and_nothing_is_told_twice(
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(expiry, "BLOCKS", 2)
    gone = ended_tasks(store.url, 100, unique("past"))
    (leaf,) = store.query("SELECT name FROM task_partitions WHERE retention_days = 1 AND lower_id IS NOT NULL")[0]
    async with relaying(relay_settings(kafka_bootstrap_servers="127.0.0.1:1")):
        assert await store.partitions.detach() == leaf
        assert await store.expiry.expire_partition() is Progress.MOVED
        waiting = store.query("SELECT count(*) FROM outbox")
        for _ in range(20):
            assert await store.expiry.expire_partition() is Progress.WAITING
            await asyncio.sleep(0.01)
        store.sound()
        assert store.query("SELECT count(*) FROM outbox") == waiting
        assert store.query(f"SELECT count(*) FROM {leaf}") == [(100,)]
        assert store.query("SELECT count(*) FROM task_requests") == [(100,)]
        with pytest.raises(psycopg2.Error, match="no rows"):
            store.query("SELECT drop_task_partition(%s)", leaf)
        store.query("UPDATE task_partitions SET waiting_blocks = 0, next_block = 1 WHERE name = %s", leaf)
        with pytest.raises(psycopg2.Error, match="acknowledged up to block 1 only"):
            store.query("SELECT drop_task_partition(%s)", leaf)
        store.query("UPDATE task_partitions SET waiting_blocks = 2, next_block = 0 WHERE name = %s", leaf)
    relay = relay_settings()
    async with relaying(relay), reading(relay, relay.state_topic) as reader:
        # Three processes at once.
        await asyncio.gather(*(store.go_on() for _ in range(3)))
        records = await reader.until(lambda found: len([1 for record in found if record.value is None]) >= 100)
    told = Counter(record.key.decode() for record in records if record.value is None)
    assert told == Counter(gone)
    for task_id in gone:
        (states,) = [[r for r in records if r.key.decode() == task_id]]
        assert states[-1].value is None
        assert {record.partition for record in states} == {shard_of(task_id)}
    assert store.query("SELECT to_regclass(%s)", leaf) == [(None,)]
    assert store.kept() == set()


async def test_a_partition_stays_while_one_of_its_tasks_is_young_or_somebody_reads(store: Store) -> None:
    ended_tasks(store.url, 3, unique("past"))
    store.query(
        "UPDATE finished_tasks SET finish_time = now() WHERE task_id = (SELECT max(task_id::text)::uuid FROM finished_tasks)"
    )
    assert await store.partitions.detach() is None
    store.query("UPDATE finished_tasks SET finish_time = now() - interval '25 hours'")
    reader = psycopg2.connect(store.url)
    try:
        with reader.cursor() as cursor:
            cursor.execute("SET ROLE scheduler_engine")
            cursor.execute("SELECT count(*) FROM scheduler.finished_tasks")
        with pytest.raises(ConcurrentChange):
            await store.partitions.detach()
        assert len(store.kept()) == 3
    finally:
        reader.close()
    assert await store.partitions.detach() is not None
    assert store.kept() == set()


async def test_tasks_end_though_nobody_made_a_partition_and_the_next_one_begins_after_them(
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    scheduler_tls: Path,
    store: Store,
) -> None:
    store.query("UPDATE queues SET retention_days = 1 WHERE queue = 'code'")
    async with running(open_service, own_settings(), scheduler_tls) as server:
        scheduler = Scheduler(server)
        # The service makes what it needs when it starts, and then every minute.
        async with asyncio.timeout(10):
            while store.query("SELECT count(*) FROM task_partitions WHERE retention_days = 1") == [(1,)]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        store.query("UPDATE queues SET retention_days = 7 WHERE queue = 'analysis'")
        task = await scheduler.create(queue="analysis", priority=9)
        async with scheduler.worker() as worker:
            await worker.complete(await worker.lease())
        assert (await scheduler.get(task.task_id)).status == "completed"
    assert store.query("SELECT priority, task_id::text FROM finished_tasks_7_rest") == [(9, task.task_id)]
    assert await store.partitions.add() == AHEAD + 1
    ranges = store.query(
        "SELECT lower_time, upper_time FROM task_partitions WHERE retention_days = 7 AND lower_id IS NOT NULL ORDER BY 1"
    )
    now = store.query("SELECT now()")[0][0]
    assert now < ranges[0][0] < now + timedelta(minutes=2)
    assert [lower for lower, _ in ranges[1:]] == [upper for _, upper in ranges[:-1]]
    assert ranges[-1][1] == start_of(ranges[-1][1], PERIODS[7]) > now + timedelta(days=2)
    assert await store.partitions.add() == 0
    # Seven days later.
    assert await store.expiry.expire_rest() is Progress.NOTHING
    store.query("UPDATE finished_tasks SET finish_time = finish_time - interval '7 days'")
    assert await store.expiry.expire_rest() is Progress.MOVED
    assert await store.expiry.expire_rest() is Progress.WAITING
    assert store.kept() == {task.task_id}
    store.query("DELETE FROM outbox")
    assert await store.expiry.expire_rest() is Progress.MOVED
    assert store.kept() == set()


async def test_a_clock_far_ahead_costs_one_period_and_no_task(store: Store) -> None:
    store.query("UPDATE queues SET retention_days = 1 WHERE queue = 'code'")
    ended_tasks(store.url, 1, unique("ahead"), days=1, partition=False, ago=timedelta(minutes=-30))
    assert await store.partitions.add() >= 1
    lower, now = store.query(
        "SELECT min(lower_time), now() FROM task_partitions WHERE retention_days = 1 AND lower_id IS NOT NULL"
    )[0]
    assert now + timedelta(minutes=1) < lower <= now + timedelta(minutes=2) + PERIODS[1]


def test_periods_count_from_1970() -> None:
    moment = datetime.fromisoformat("2026-11-22T23:59:59.999+00:00")
    assert start_of(moment, PERIODS[1]).isoformat() == "2026-11-22T20:00:00+00:00"
    assert start_of(start_of(moment, PERIODS[30]), PERIODS[30]) == start_of(moment, PERIODS[30])
