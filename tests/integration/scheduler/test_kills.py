"""kill -9 in the middle of the work: each task ends once, each event has one number and one id, in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import psycopg2
import pytest
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_pb2
from guildmesh_client.worker import Task, Worker

from services.common.context import Principal
from services.common.grpcx.channel import secure_channel
from services.embedded.ports import free_port
from services.scheduler.storage.event_log import split
from tests.integration.scheduler.conftest import MakeSettings, unique
from tests.integration.scheduler.processes import Process
from tests.integration.scheduler.test_relay import (  # noqa: F401 - fixtures
    MakeRelay,
    check_order,
    header,
    own_settings,
    reading,
    relay_settings,
    until_outbox_empty,
)
from tests.support.service import metadata

TASKS = 500
ADA = Principal("ada", "acme", frozenset({"user"}))


class Mesh:
    """A scheduler and a relay process, and a channel to the scheduler."""

    def __init__(self, scheduler: Process, relay: Process, channel: grpc.aio.Channel) -> None:
        self.scheduler = scheduler
        self.relay = relay
        self.channel = channel
        self.stub: pb_grpc.SchedulerServiceAsyncStub = pb_grpc.SchedulerServiceStub(channel)
        self.kind = unique("kind")

    async def create(self, description: str) -> str:
        """Creates one task, trying again with the same request id until it is answered."""
        request = pb.CreateTaskRequest(task=task_pb2.Task(description=description, kind=self.kind), request_id=str(uuid.uuid4()))
        while True:
            try:
                return (await self.stub.CreateTask(request, metadata=metadata(ADA), timeout=10)).task_id
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
                await asyncio.sleep(0.1)


@pytest.fixture
async def mesh(
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    scheduler_tls: Path,
    tmp_path: Path,
) -> AsyncIterator[Mesh]:
    settings, relay = own_settings(), relay_settings()
    port = free_port()
    common = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "DB_POOL_SIZE": "8",
        "GUILDMESH_TLS_DIR": str(settings.tls_dir),
        "GUILDMESH_ADMIN_PORT": "0",
        "GUILDMESH_DRAIN_SECONDS": "1",
        "KAFKA_BOOTSTRAP_SERVERS": relay.kafka_bootstrap_servers,
        "GUILDMESH_TASK_EVENTS_TOPIC": relay.events_topic,
    }
    scheduler = Process(
        "services.scheduler",
        {**common, "GUILDMESH_PORT": str(port), "GUILDMESH_LEASE_SECONDS": "2", "GUILDMESH_HEARTBEAT_SECONDS": "0.5"},
        tmp_path / "scheduler.log",
    )
    relaying = Process(
        "services.scheduler.relay",
        {
            **common,
            "GUILDMESH_TASK_STATE_TOPIC": relay.state_topic,
            "GUILDMESH_DEAD_LETTERS_TOPIC": relay.dead_letters_topic,
            "GUILDMESH_RELAY_LEASE_SECONDS": "1.5",
        },
        tmp_path / "relay.log",
    )
    await scheduler.start()
    await relaying.start()
    async with secure_channel(f"localhost:{port}", "scheduler", scheduler_tls / "gateway") as channel:
        try:
            yield Mesh(scheduler, relaying, channel)
        finally:
            codes = await asyncio.gather(scheduler.stop(), relaying.stop())
    assert set(codes) == {0}, scheduler.tail() + relaying.tail()


@contextlib.asynccontextmanager
async def working(mesh: Mesh) -> AsyncIterator[Counter[str]]:
    """A worker that counts how often each task ran."""
    worker = Worker(channel=mesh.channel, metadata=metadata(ADA), concurrency=20)
    runs: Counter[str] = Counter()

    @worker.task(mesh.kind)
    async def run(task: Task) -> Any:
        runs[task.task_id] += 1
        await asyncio.sleep(0.02)
        return {"n": task.description}

    task = asyncio.create_task(worker.run())
    try:
        yield runs
    finally:
        worker.stop()
        async with asyncio.timeout(20):
            await asyncio.gather(task, return_exceptions=True)


def query(settings: Any, statement: str) -> list[Any]:
    connection = psycopg2.connect(settings.database_url.get_secret_value())
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SET ROLE scheduler_engine")
            cursor.execute(statement)
            return list(cursor.fetchall())
    finally:
        connection.close()


async def until(condition: Callable[[], bool], seconds: float, told: Callable[[], object]) -> None:
    async with asyncio.timeout(seconds) as limit:
        try:
            while not condition():  # noqa: ASYNC110 - the condition is another process's
                await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            if limit.expired():
                print(told())
            raise


async def go_through(mesh: Mesh, settings: Any, relay: Any, disturb: Callable[[], Any]) -> None:
    """Runs 500 tasks while something is disturbed, and checks what is left in the tables and on Kafka."""
    ended = "SELECT count(*) FROM scheduler.finished_tasks WHERE state = 3"
    async with working(mesh):
        disturbing = asyncio.create_task(disturb())
        task_ids = await asyncio.gather(*(mesh.create(str(number)) for number in range(TASKS)))
        assert len(set(task_ids)) == TASKS
        await disturbing
        await until(
            lambda: query(settings, ended) == [(TASKS,)],
            60,
            lambda: query(settings, "SELECT state, count(*) FROM scheduler.tasks GROUP BY state"),
        )
    assert query(settings, "SELECT count(*) FROM scheduler.tasks") == [(0,)]
    total = 0
    for log, inline, newest in query(settings, "SELECT log, log_events, next_event_number - 1 FROM scheduler.finished_tasks"):
        events = [TaskEvent.FromString(value) for value in split(bytes(log))]
        assert [event.number for event in events] == list(range(1, newest + 1))
        assert inline == newest
        assert [event.WhichOneof("change") for event in events].count("completed") == 1
        assert events[-1].WhichOneof("change") == "completed"
        total += newest
    await until_outbox_empty(settings)
    async with reading(relay, relay.events_topic) as reader:
        records = await reader.until(lambda found: len({header(record, "ce_id") for record in found}) >= total)
    numbers = check_order(records)
    assert len(numbers) == TASKS
    assert sum(len(line) for line in numbers.values()) == total


async def test_killing_the_scheduler_loses_nothing(
    mesh: Mesh,
    own_settings: MakeSettings,  # noqa: F811
    relay_settings: MakeRelay,  # noqa: F811
) -> None:
    async def disturb() -> None:
        settings = own_settings()
        for share in (0.2, 0.6):
            wanted = f"SELECT count(*) >= {int(TASKS * share)} FROM scheduler.finished_tasks WHERE state = 3"
            await until(lambda wanted=wanted: query(settings, wanted) == [(True,)], 60, mesh.scheduler.tail)  # type: ignore[misc]
            await mesh.scheduler.kill()
            await mesh.scheduler.start()

    await go_through(mesh, own_settings(), relay_settings(), disturb)


async def test_killing_and_pausing_the_relay_loses_nothing(
    mesh: Mesh,
    own_settings: MakeSettings,  # noqa: F811
    relay_settings: MakeRelay,  # noqa: F811
) -> None:
    async def disturb() -> None:
        settings = own_settings()
        for share in (0.1, 0.4, 0.7):
            wanted = f"SELECT count(*) >= {int(TASKS * share)} FROM scheduler.finished_tasks WHERE state = 3"
            await until(lambda wanted=wanted: query(settings, wanted) == [(True,)], 60, mesh.scheduler.tail)  # type: ignore[misc]
            if share == 0.4:
                # Paused for longer than its lease, then continued.
                mesh.relay.signal(signal.SIGSTOP)
                await asyncio.sleep(2)
                mesh.relay.signal(signal.SIGCONT)
            else:
                await mesh.relay.kill()
                await mesh.relay.start()

    await go_through(mesh, own_settings(), relay_settings(), disturb)
