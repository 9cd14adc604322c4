"""When what a queue says about starts holds for every start, and that users are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from guildmesh.scheduler.v1 import queue_pb2
from guildmesh.scheduler.v1 import queue_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2 as tasks_pb

from services.scheduler import bootstrap
from services.scheduler.bootstrap import open_service
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.queues.conftest import Client, Tables
from tests.support.service import metadata, running


@pytest.fixture
async def client(own_settings: MakeSettings, scheduler_tls: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    """One that has gone through all tasks for the last time 3 s after a queue is limited, not 12."""
    monkeypatch.setattr(bootstrap, "SETTLED", 3.0)
    async with running(open_service, own_settings(), scheduler_tls) as server:
        yield Client(Scheduler(server))


async def in_force(client: Client, name: str, *, shared: bool = False) -> queue_pb2.Queue:
    """The queue, once its limits are."""
    async with asyncio.timeout(20):
        while not (queue := await client.get(name, shared=shared)).limits_in_force:  # noqa: ASYNC110 - in another task
            await asyncio.sleep(0.05)
    return queue


async def test_the_first_pause_of_a_queue_says_when_nothing_starts_any_more(client: Client, tables: Tables) -> None:
    name, other = unique("q"), unique("q")
    assert (await client.create(name)).limits_in_force
    await client.create(other)
    pause = pb.PauseQueueRequest(queue=name)
    paused = await client.queues.PauseQueue(pause, metadata=metadata(client.ada))
    assert (paused.paused, paused.limits_in_force) == (True, False)
    assert not (await client.get(name)).limits_in_force
    listed = await client.scheduler.stub.ListQueues(tasks_pb.ListQueuesRequest(), metadata=metadata(client.user))
    assert {queue.queue: queue.limits_in_force for queue in listed.queues if queue.queue in (name, other)} == {
        name: False,
        other: True,
    }
    await in_force(client, name)
    settled = "SELECT settled FROM decided_queues WHERE tenant_id = %s AND queue = %s"
    assert tables.one(settled, client.user.tenant_id, name) is True
    # From here on nothing of it starts, and the worker has what comes later instead.
    first = await client.scheduler.create(queue=name)
    second = await client.scheduler.create(queue=other)
    async with client.scheduler.worker() as worker:
        lease = await worker.lease()
        assert lease.task.task_id == second.task_id
        await worker.complete(lease)
        assert (await client.scheduler.get(first.task_id)).status == "pending"
        # A later change holds from its answer on; and so does one of an open queue that is still decided on.
        limited = await client.update(name, "max_running", max_running=1)
        assert limited.limits_in_force
        resumed = await client.queues.ResumeQueue(pb.ResumeQueueRequest(queue=name), metadata=metadata(client.ada))
        assert (resumed.paused, resumed.limits_in_force) == (False, True)
        await worker.complete(await worker.lease())
    unlimited = await client.update(name, "max_running")
    assert unlimited.limits_in_force
    again = await client.queues.PauseQueue(pause, metadata=metadata(client.ada))
    assert (again.paused, again.limits_in_force) == (True, True)


async def test_a_new_queue_with_limits_takes_the_tasks_of_the_shared_one_and_says_when_it_limits_them(client: Client) -> None:
    task = await client.scheduler.create(queue="research")
    created = await client.create("research", max_running=1)
    assert not created.limits_in_force
    assert (await client.get("research", shared=True)).limits_in_force
    assert (await in_force(client, "research")).max_running == 1
    await client.scheduler.cancel(task.task_id)
