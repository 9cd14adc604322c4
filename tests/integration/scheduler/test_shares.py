"""Tenants share a queue by weight of slot-seconds, by a running scheduler; unit tests simulate long times."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb

from services.common.context import Principal
from tests.integration.scheduler.conftest import BareWorker, MakeSettings, Scheduler, completion, unique
from tests.integration.scheduler.queue_rows import QueueRows
from tests.support.service import metadata

SLOTS = 6
SECONDS = 5.0
WEIGHTS = {"a": 5, "b": 3, "c": 2}
LENGTHS = {"a": (0.02, 0.2), "b": (0.05, 0.05), "c": (0.3, 0.3)}
"""shortest and longest task of each tenant, in seconds."""
BACKLOG = {"a": 500, "b": 500, "c": 60}


@pytest.fixture
def rows(scheduler_settings: MakeSettings) -> Iterator[QueueRows]:
    rows = QueueRows(scheduler_settings().database_url.get_secret_value())
    yield rows
    rows.close()


async def test_slot_seconds_are_shared_by_weight(scheduler: Scheduler, rows: QueueRows) -> None:
    chance = random.Random(7)
    tenants = {name: Principal(name, unique(name), frozenset({"user"})) for name in WEIGHTS}
    names = {principal.tenant_id: name for name, principal in tenants.items()}
    queue = unique("q")
    weights = {tenants[name].tenant_id: weight for name, weight in WEIGHTS.items()}
    rows.add(queue, max_running=SLOTS, tenant_weights=weights)
    await rows.decided(queue)
    for name, principal in tenants.items():
        task = task_pb2.Task(description=name, kind=scheduler.kind, queue=queue)
        request = pb.BatchCreateTasksRequest(requests=[pb.CreateTaskRequest(task=task)] * BACKLOG[name])
        await scheduler.stub.BatchCreateTasks(request, metadata=metadata(principal))
    worker = BareWorker(scheduler.server.channel("agent"), metadata(scheduler.ada, via="agent"))
    await worker.hello(20, kinds=[scheduler.kind], worker_id=unique("w"), all_tenants=True)
    used: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    end = loop.time() + SECONDS

    async def run(lease: worker_pb.TaskLease) -> None:
        begun, name = loop.time(), names[lease.task.tenant_id]
        await asyncio.sleep(chance.uniform(*LENGTHS[name]))
        await worker.send(completions=[completion(lease.task.task_id, lease.task.attempt)], credits=1)
        used[name] += max(0.0, min(loop.time(), end) - begun)

    runs: set[asyncio.Task[None]] = set()
    while loop.time() < end:
        runs.add(asyncio.create_task(run(await worker.lease())))
        assert rows.running(queue) <= SLOTS
    await asyncio.gather(*runs)
    worker.call.cancel()
    # Of every tenant something waited all the time.
    left = dict(rows.query("SELECT tenant_id, count(*) FROM scheduler.tasks WHERE queue = %s AND state = 1 GROUP BY 1", queue))
    assert all(left.get(principal.tenant_id, 0) > 0 for principal in tenants.values())
    shares = {name: used[name] / used.total() for name in WEIGHTS}
    # A short time, on a machine that may do much else: without weights each had a third.
    assert shares == pytest.approx({name: weight / 10 for name, weight in WEIGHTS.items()}, abs=0.08)
