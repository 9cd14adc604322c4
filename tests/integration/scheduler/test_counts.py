"""The counts are what counting would give, whatever became of the tasks; the gauges tell what waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb
from prometheus_client import REGISTRY
from pydantic import SecretStr

from services.common.db.driver import Driver, open_driver
from services.common.db.engine_role import EngineDriver
from services.common.db.migrations import migrate
from services.scheduler.bootstrap import open_service
from services.scheduler.domain.task import State
from services.scheduler.relay.gauges import Gauges
from services.scheduler.relay.lag import Lag
from services.scheduler.storage.counts import count_tasks, sum_up_counts
from tests.integration.scheduler.conftest import BareWorker, MakeSettings, Scheduler
from tests.support.service import running

_SCAN = "SELECT queue, state, count(*) FROM {} GROUP BY queue, state"


async def counted(database: Driver) -> tuple[Counter[tuple[str, State]], Counter[tuple[str, State]]]:
    """What the counts say and what a scan says, of one moment."""
    async with database.transaction(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL ROLE scheduler_engine; SET LOCAL search_path = scheduler"
    ) as connection:
        told = Counter({key: number for key, number in (await count_tasks(connection)).items() if number})
        rows = [row for table in ("tasks", "finished_tasks") for row in await connection.fetch(_SCAN.format(table))]
    return told, Counter({(row[0], State(row[1])): row[2] for row in rows})


async def test_counts_follow_every_change(scheduler_settings: MakeSettings, scheduler_tls: Path, empty_database_url: str) -> None:
    settings = scheduler_settings(database_url=SecretStr(empty_database_url))
    migrate(settings, package="services.scheduler.storage.migrations", schema="scheduler")
    async with (
        running(open_service, settings, scheduler_tls) as server,
        open_driver(settings, "scheduler") as database,
    ):
        scheduler = Scheduler(server)
        made = [await scheduler.create(str(number), queue=("code", "research")[number % 2]) for number in range(12)]
        parent = await scheduler.create()
        for _ in range(3):
            await scheduler.create(parent_task_id=parent.task_id)
        await scheduler.cancel(made[0].task_id)
        await scheduler.cancel(parent.task_id)
        async with scheduler.worker(credits=6) as worker:
            leases = [await worker.lease() for _ in range(6)]
            await worker.complete(leases[0])
            await worker.fail(leases[1], retryable=False)
            await worker.fail(leases[2], retryable=True)
            told, scanned = await counted(database)
            assert told == scanned
            assert sum(told.values()) == 16
            assert told["default", State.CANCELLED] == 4
            async with EngineDriver(database).transaction() as connection:
                await asyncio.gather(sum_up_counts(connection))
            told, scanned = await counted(database)
            assert told == scanned
        await Gauges(EngineDriver(database), Lag(EngineDriver(database), 60), lambda: True).read()
        labels = {"queue": "default", "state": "cancelled"}
        assert REGISTRY.get_sample_value("guildmesh_tasks", labels) == 4
        assert (REGISTRY.get_sample_value("guildmesh_oldest_pending_task_seconds", {"kind": scheduler.kind}) or 0) > 0
        # Nothing publishes here, so everything waits.
        assert (REGISTRY.get_sample_value("guildmesh_outbox_events") or 0) >= 16 + 5 + 9
        assert (REGISTRY.get_sample_value("guildmesh_outbox_oldest_seconds") or 0) > 0
        waits = {"queue": "research", "le": "+Inf"}
        assert (REGISTRY.get_sample_value("guildmesh_task_wait_seconds_bucket", waits) or 0) >= 1


async def test_leases_are_counted_as_they_are_renewed_and_lost(scheduler: Scheduler) -> None:
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    async def renewed(worker: BareWorker, **beat: Any) -> None:
        await worker.send(heartbeats=[worker_pb.TaskHeartbeat(**beat)])

    before = {answer: value("guildmesh_lease_renewals_total", answer=answer) for answer in ("renewed", "STALE_ATTEMPT")}
    lost = value("guildmesh_leases_expired_total", queue="research")
    task = await scheduler.create(queue="research", max_attempts=1)
    async with scheduler.worker() as worker:
        lease = await worker.lease()
        await renewed(worker, task_id=task.task_id, attempt=1)
        await worker.answer("renewals")
        await renewed(worker, task_id=task.task_id, attempt=7)
        await worker.answer("cancels")
        assert value("guildmesh_lease_renewals_total", answer="renewed") >= before["renewed"] + 1
        assert value("guildmesh_lease_renewals_total", answer="STALE_ATTEMPT") >= before["STALE_ATTEMPT"] + 1
        assert lease.task.attempt == 1
    assert (await scheduler.until_event(task.task_id, "failed")).failed.reason == "WORKER_LOST"
    assert value("guildmesh_leases_expired_total", queue="research") >= lost + 1
