"""Several schedulers, one of which decides: killed, stopped and continued, cut off. No limit is exceeded at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_pb2
from guildmesh_client.worker import Task, Worker
from pydantic import SecretStr

from services.common.context import Principal
from services.common.db.migrations import migrate
from services.common.grpcx.channel import secure_channel
from services.embedded.ports import free_ports
from services.scheduler.settings import SchedulerSettings
from services.scheduler.storage.event_log import split
from tests.integration.scheduler.conftest import unique
from tests.integration.scheduler.processes import Process
from tests.integration.scheduler.queue_rows import QueueRows
from tests.support.service import metadata

REPLICAS = 3
MOST, PER_KEY = 6, 2
KEYS = ("x", "y", "z", "")
_OWNER = "SELECT owner, address FROM scheduler.dispatch_owners WHERE lease_expires > clock_timestamp()"
_ENDED = "SELECT count(*) FROM scheduler.finished_tasks WHERE queue = %s"
_BUSY = """
SELECT concurrency_key, count(*) FROM scheduler.tasks WHERE queue = %s AND state = 2
GROUP BY GROUPING SETS ((), (concurrency_key))
HAVING GROUPING(concurrency_key) = 1 OR concurrency_key IS NOT NULL
"""
_LOGS = "SELECT task_id::text, log FROM scheduler.finished_tasks WHERE queue = %s"


@dataclass
class Mesh:
    """Three schedulers with workers of each, and a queue with limits."""

    replicas: dict[str, Process]
    """by the address at which the others reach it."""
    targets: dict[str, str]
    rows: QueueRows
    tls: Path
    queue: str = field(default_factory=lambda: unique("q"))
    kind: str = field(default_factory=lambda: unique("kind"))
    ada: Principal = field(default_factory=lambda: Principal("ada", unique("acme"), frozenset({"user"})))

    async def owner(self, but: str = "") -> str:
        """Waits until one decides, other than `but`; gives its address."""
        async with asyncio.timeout(30):
            while True:
                found = self.rows.query(_OWNER)
                if found and found[0][1] in self.targets and found[0][1] != but:
                    return str(found[0][1])
                await asyncio.sleep(0.01)

    async def create(self, number: int) -> dict[str, str]:
        """Creates tasks with keys in turn; gives the key of each."""
        keys: dict[str, str] = {}
        target = "ipv4:" + ",".join(self.targets.values())
        async with secure_channel(target, "scheduler", self.tls / "gateway") as channel:
            stub: Any = pb_grpc.SchedulerServiceStub(channel)
            tasks = [
                task_pb2.Task(description=str(n), kind=self.kind, queue=self.queue, concurrency_key=KEYS[n % len(KEYS)])
                for n in range(number)
            ]
            request = pb.BatchCreateTasksRequest(requests=[pb.CreateTaskRequest(task=task) for task in tasks])
            answer = await stub.BatchCreateTasks(request, metadata=metadata(self.ada), wait_for_ready=True)
        for task, result in zip(tasks, answer.results, strict=True):
            keys[result.task_id] = task.concurrency_key
        return keys

    async def ended(self, number: int, seconds: float = 60) -> None:
        """Waits until so many tasks have ended."""
        async with asyncio.timeout(seconds):
            while self.rows.query(_ENDED, self.queue)[0][0] < number:  # noqa: ASYNC110 - in other processes
                await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def working(self, seconds: float) -> AsyncIterator[None]:
        """A worker at each scheduler, whose tasks take about so long."""
        async with contextlib.AsyncExitStack() as stack:
            for target in self.targets.values():
                channel = await stack.enter_async_context(secure_channel(target, "scheduler", self.tls / "gateway"))
                worker = Worker(channel=channel, metadata=metadata(self.ada), concurrency=5)

                @worker.task(self.kind)
                async def run(task: Task) -> Any:
                    await asyncio.sleep(seconds * random.uniform(0.5, 1.5))

                running = asyncio.create_task(worker.run())
                stack.push_async_callback(_stopped, worker, running)
            yield

    @contextlib.asynccontextmanager
    async def watched(self, problems: list[str]) -> AsyncIterator[None]:
        """Looks at the table all the time, and notes each limit that is exceeded."""

        async def look() -> None:
            while True:
                for key, number in self.rows.query(_BUSY, self.queue):
                    if number > (MOST if key is None else PER_KEY):
                        problems.append(f"{number} tasks of key {key} run")
                await asyncio.sleep(0.005)

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    def exceeded(self, keys: dict[str, str]) -> list[str]:
        """What the history of starts and ends says of limits, and of tasks that ran more often than they should."""
        changes: list[tuple[float, int, str]] = []
        for task_id, log in self.rows.query(_LOGS, self.queue):
            for event in (TaskEvent.FromString(value) for value in split(bytes(log))):
                moment = event.event_time.ToNanoseconds()
                change = event.WhichOneof("change")
                if change == "started":
                    changes.append((moment, 1, task_id))
                elif change in ("retried", "completed"):
                    changes.append((moment, 0, task_id))
        running: Counter[str] = Counter()
        problems = []
        # What ends in the moment in which another starts has made room for it.
        for _, begins, task_id in sorted(changes):
            for name, most in {"": MOST, keys[task_id]: PER_KEY if keys[task_id] else MOST}.items():
                running[name] += 1 if begins else -1
                if begins and running[name] > most:
                    problems.append(f"{running[name]} tasks of key {name!r} ran at once")
        return problems


async def _stopped(worker: Worker, running: asyncio.Task[None]) -> None:
    worker.stop()
    async with asyncio.timeout(20):
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def mesh(empty_database_url: str, scheduler_tls: Path, tmp_path: Path) -> AsyncIterator[Mesh]:
    settings = SchedulerSettings(_env_file=None, database_url=SecretStr(empty_database_url))
    migrate(settings, package="services.scheduler.storage.migrations", schema="scheduler")
    ports = free_ports(REPLICAS)
    replicas = {f"127.0.0.1:{port}": _process(port, empty_database_url, scheduler_tls, tmp_path) for port in ports}
    rows = QueueRows(empty_database_url)
    mesh = Mesh(replicas, {address: address for address in replicas}, rows, scheduler_tls)
    for process in replicas.values():
        await process.start()
    try:
        await mesh.owner()
        rows.add(mesh.queue, mesh.ada.tenant_id, max_running=MOST, max_running_per_key=PER_KEY)
        await rows.decided(mesh.queue, mesh.ada.tenant_id)
        yield mesh
    finally:
        codes = await asyncio.gather(*(process.stop() for process in replicas.values()))
        rows.close()
    assert set(codes) == {0}, [process.tail() for process in replicas.values()]


def _process(port: int, url: str, tls: Path, folder: Path) -> Process:
    environment = {
        "DATABASE_URL": url,
        "DB_POOL_SIZE": "8",
        "GUILDMESH_TLS_DIR": str(tls / "scheduler"),
        "GUILDMESH_PORT": str(port),
        "GUILDMESH_ADMIN_PORT": "0",
        "GUILDMESH_DRAIN_SECONDS": "1",
        "GUILDMESH_LEASE_SECONDS": "2",
        "GUILDMESH_HEARTBEAT_SECONDS": "0.5",
        "GUILDMESH_SWEEP_SECONDS": "0.2",
    }
    return Process("services.scheduler", environment, folder / f"scheduler-{port}.log")


@pytest.fixture
def problems() -> Iterator[list[str]]:
    problems: list[str] = []
    yield problems
    assert problems == []


async def test_limits_hold_over_all_replicas_and_every_replica_gets_tasks(mesh: Mesh, problems: list[str]) -> None:
    keys = await mesh.create(200)
    async with mesh.watched(problems), mesh.working(0.02):
        await mesh.ended(200)
    problems += mesh.exceeded(keys)


async def test_the_owner_is_killed_and_another_takes_over_within_three_seconds(mesh: Mesh, problems: list[str]) -> None:
    keys = await mesh.create(300)
    async with mesh.watched(problems), mesh.working(0.05):
        await mesh.ended(30)
        owner = await mesh.owner()
        killed = time.monotonic()
        await mesh.replicas[owner].kill()
        await mesh.owner(but=owner)
        taken = time.monotonic()
        await mesh.replicas[owner].start()
        await mesh.ended(300)
    assert taken - killed < 3
    problems += mesh.exceeded(keys)


async def test_the_owner_is_stopped_and_continued_and_starts_nothing_by_its_epoch(mesh: Mesh, problems: list[str]) -> None:
    keys = await mesh.create(400)
    async with mesh.watched(problems), mesh.working(0.05):
        for share in (40, 150):
            await mesh.ended(share)
            owner = await mesh.owner()
            stopped = time.monotonic()
            mesh.replicas[owner].signal(signal.SIGSTOP)
            await mesh.owner(but=owner)
            taken = time.monotonic()
            await asyncio.sleep(1)
            mesh.replicas[owner].signal(signal.SIGCONT)
            assert taken - stopped < 3
        await mesh.ended(400)
    problems += mesh.exceeded(keys)


async def test_limits_hold_whichever_scheduler_is_killed_or_stopped_and_when(mesh: Mesh, problems: list[str]) -> None:
    seed = int(os.environ.get("GUILDMESH_FAULTS_SEED") or time.strftime("%Y%m%d", time.gmtime()))
    turns = int(os.environ.get("GUILDMESH_DISPATCH_TURNS", "3"))
    chance = random.Random(seed)
    keys: dict[str, str] = {}
    for _ in range(turns):
        # More than run meanwhile.
        keys |= await mesh.create(100)
    async with mesh.watched(problems), mesh.working(0.2):
        for _ in range(turns):
            await asyncio.sleep(chance.uniform(0.1, 1.5))
            # Most often whoever decides, for that matters most.
            address = await mesh.owner() if chance.random() < 0.7 else chance.choice(sorted(mesh.replicas))
            process = mesh.replicas[address]
            if chance.random() < 0.5:
                await process.kill()
                await asyncio.sleep(chance.uniform(0, 1))
                await process.start()
            else:
                process.signal(signal.SIGSTOP)
                await asyncio.sleep(chance.uniform(0.2, 2.5))
                process.signal(signal.SIGCONT)
        await mesh.ended(len(keys), 60 + 10 * turns)
    problems += [f"GUILDMESH_FAULTS_SEED={seed}: {problem}" for problem in mesh.exceeded(keys)]
