"""kill -9 of everything between an event and its receiver: what the receiver has in the end is each event once, in order.

A receiver keeps what it is sent first and drops repeats by their Idempotency-Key, as the guide says; so does this one.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import webhook_pb2
from guildmesh.scheduler.v1 import webhook_service_pb2 as hook_pb
from guildmesh.scheduler.v1 import webhook_service_pb2_grpc as hook_grpc
from guildmesh_client.webhooks import event_of, verify
from guildmesh_client.worker import Task, Worker

from services.common.failpoints import CRASH_STATUS
from tests.integration.scheduler.conftest import MakeSettings
from tests.integration.scheduler.processes import Process
from tests.integration.scheduler.test_kills import ADA, Mesh, mesh  # noqa: F401 - the fixture
from tests.integration.scheduler.test_relay import MakeRelay, own_settings, relay_settings  # noqa: F401 - fixtures
from tests.support.receiver import Receiver, Request, receiving
from tests.support.service import metadata

# `make test` shows it in small; see docs/faults.md for the large run.
TASKS = int(os.environ.get("GUILDMESH_WEBHOOK_TASKS", "12"))
OUTPUTS = int(os.environ.get("GUILDMESH_WEBHOOK_OUTPUTS", "5"))
TURNS = int(os.environ.get("GUILDMESH_WEBHOOK_TURNS", "3"))
SECONDS = 60 + TASKS * OUTPUTS / 50
POINTS = (
    "webhooks.send.after_answer",
    "webhooks.record.before_commit",
    "webhooks.route.after_commit",
    "webhooks.route.before_commit",
    "webhooks.record.after_commit",
)
WEBHOOKS = "services.scheduler.webhooks"
MakeProcess = Callable[..., Process]


@pytest.fixture
async def webhooks(
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> AsyncIterator[MakeProcess]:
    """Makes webhook processes, each with a file of failpoints of its name (and more variables), and stops them at the end."""
    settings, relay = own_settings(), relay_settings()
    made: list[Process] = []

    def make(name: str, **more: str) -> Process:
        rules = tmp_path / f"{name}.rules"
        rules.write_text("")
        environment = {
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "KAFKA_BOOTSTRAP_SERVERS": relay.kafka_bootstrap_servers,
            "GUILDMESH_TASK_EVENTS_TOPIC": relay.events_topic,
            "GUILDMESH_TLS_DIR": str(settings.tls_dir),
            "GUILDMESH_ADMIN_PORT": "0",
            "GUILDMESH_WEBHOOK_LEASE_SECONDS": "1",
            "GUILDMESH_WEBHOOK_POLL_SECONDS": "0.2",
            "GUILDMESH_WEBHOOK_RETRY_SECONDS": "0.1",
            "GUILDMESH_WEBHOOK_LONGEST_CLOSED_SECONDS": "0.5",
            "GUILDMESH_FAILPOINTS_FILE": str(rules),
            **more,
        }
        made.append(Process(WEBHOOKS, environment, tmp_path / f"{name}.log"))
        return made[-1]

    yield make
    await asyncio.gather(*(process.stop() for process in made))


async def create_webhook(mesh: Mesh, receiver: Receiver) -> str:  # noqa: F811 - the fixture
    """Has all events of ada sent to a receiver; gives the secret."""
    stub: Any = hook_grpc.WebhookServiceStub(mesh.channel)
    request = hook_pb.CreateWebhookRequest(webhook=webhook_pb2.Webhook(webhook_id="all", url=receiver.url))
    secret: str = (await stub.CreateWebhook(request, metadata=metadata(ADA), wait_for_ready=True)).secret
    return secret


@asynccontextmanager
async def talking(mesh: Mesh) -> AsyncIterator[None]:  # noqa: F811 - the fixture
    """A worker whose tasks put something out OUTPUTS times."""
    worker = Worker(channel=mesh.channel, metadata=metadata(ADA), concurrency=TASKS)

    @worker.task(mesh.kind)
    async def talk(task: Task) -> Any:
        for number in range(OUTPUTS):
            await task.output(f"{number} ")
            await asyncio.sleep(0.12)
        return "done"

    working = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        async with asyncio.timeout(30):
            await asyncio.gather(working, return_exceptions=True)


async def stored(mesh: Mesh, task_id: str) -> dict[int, TaskEvent]:  # noqa: F811 - the fixture
    """The events of a task as the scheduler keeps them, once it has ended, also when the scheduler was killed a moment ago."""
    found: dict[int, TaskEvent] = {}
    while True:
        request = pb.WatchTaskRequest(task_id=task_id, after_event_number=max(found, default=0))
        try:
            async for event in mesh.stub.WatchTask(request, metadata=metadata(ADA), wait_for_ready=True, timeout=SECONDS):
                found[event.number] = event
            return found
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise


async def check(mesh: Mesh, receiver: Receiver, secret: str, task_ids: list[str]) -> None:  # noqa: F811 - the fixture
    """Waits until the receiver has the last event of each task; then it has all of them, in order, as they are kept."""
    first: dict[str, Request] = {}
    kept = dict(zip(task_ids, await asyncio.gather(*(stored(mesh, task_id) for task_id in task_ids)), strict=True))
    ends = {f"{task_id}/{max(events)}" for task_id, events in kept.items()}
    await receiver.until(lambda: ends <= receiver.ids, SECONDS)
    for request in receiver.taken:
        # Everything within the limit of a receiver: the long runs take longer.
        assert verify(secret, request.headers, request.body, tolerance=3600) == request.id
        same = first.setdefault(request.id, request)
        assert same.body == request.body
    assert receiver.numbers() == {task_id: list(range(1, len(events) + 1)) for task_id, events in kept.items()}
    for request in first.values():
        assert event_of(request.body) == kept[request.task_id][request.number]


async def test_whoever_is_killed_a_receiver_has_every_event_of_every_task_in_order(
    mesh: Mesh,  # noqa: F811 - the fixture
    webhooks: MakeProcess,
    tmp_path: Path,
) -> None:
    """In each turn one webhook process dies at a place, and something else at any moment; the receiver is away meanwhile."""
    chance = random.Random(7)
    one, two = webhooks("one"), webhooks("two")
    rules = tmp_path / "one.rules"
    victims = [mesh.scheduler, mesh.relay, two]
    async with receiving() as receiver, talking(mesh):
        secret = await create_webhook(mesh, receiver)
        await asyncio.gather(one.start(), two.start())
        made = list(await asyncio.gather(*(mesh.create(str(number)) for number in range(TASKS))))
        for turn in range(TURNS):
            victim = victims[turn % len(victims)]
            rules.write_text(f"{POINTS[turn % len(POINTS)]}=crash@1")
            ended = asyncio.create_task(one.ended())
            while not ended.done():
                made.append(await mesh.create("something to deliver"))
                await asyncio.wait({ended}, timeout=0.3)
            assert ended.result() == CRASH_STATUS, one.tail()
            rules.write_text("")
            await receiver.stop()
            await asyncio.sleep(chance.uniform(0, 0.2))
            await victim.kill()
            await receiver.start()
            await asyncio.gather(one.start(), victim.start())
        await check(mesh, receiver, secret, made)
