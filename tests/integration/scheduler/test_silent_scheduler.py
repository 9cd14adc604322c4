"""A scheduler that stands still while its connections live: a real process, stopped by SIGSTOP under a worker."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from guildmesh_client.worker import Task, Worker

from services.common.grpcx.channel import secure_channel
from services.embedded.ports import free_port
from services.scheduler.bootstrap import open_service
from services.scheduler.settings import SchedulerSettings
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, value
from tests.integration.scheduler.processes import Process
from tests.support.service import metadata, running
from tests.support.tcp_proxy import tcp_proxy

# Long enough that on a busy machine another replica is found before it ends.
LEASE_SECONDS = 6.0


@pytest.fixture
def settings(scheduler_settings: MakeSettings) -> SchedulerSettings:
    return scheduler_settings(lease_seconds=LEASE_SECONDS, heartbeat_seconds=LEASE_SECONDS / 5, port=free_port())


@asynccontextmanager
async def replica(settings: SchedulerSettings, tls: Path, folder: Path, failpoints: str = "") -> AsyncIterator[Process]:
    """A scheduler of its own process, that serves."""
    process = Process(
        "services.scheduler",
        {
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "GUILDMESH_TLS_DIR": str(settings.tls_dir),
            "GUILDMESH_PORT": str(settings.port),
            "GUILDMESH_ADMIN_PORT": "0",
            "GUILDMESH_DRAIN_SECONDS": "0",
            "GUILDMESH_LEASE_SECONDS": str(settings.lease_seconds),
            "GUILDMESH_HEARTBEAT_SECONDS": str(settings.heartbeat_seconds),
            # It is not to be stopped in the middle of a sweep, which would hold up the sweeps of the other.
            "GUILDMESH_SWEEP_SECONDS": "60",
            "GUILDMESH_FAILPOINTS": failpoints,
        },
        folder / "scheduler.log",
    )
    await process.start()
    try:
        async with secure_channel(f"localhost:{settings.port}", "scheduler", tls / "gateway") as channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60)
        yield process
    finally:
        process.signal(signal.SIGCONT)
        assert await process.stop() == 0, process.tail()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a log file has no event to wait for
        await asyncio.sleep(0.02)


def a_worker(target: str, tls: Path, by: Scheduler, **options: Any) -> Worker:
    """A worker with a channel of its own."""
    folder = tls / "gateway"
    files = [(folder / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")]
    return Worker(target, credentials=grpc.ssl_channel_credentials(*files), metadata=metadata(by.ada), **options)


async def test_what_runs_goes_on_with_another_replica(
    settings: SchedulerSettings, scheduler_tls: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = settings.model_copy(update={"port": 0})
    async with (
        replica(settings, scheduler_tls, tmp_path) as process,
        running(open_service, other, scheduler_tls) as server,
        tcp_proxy([settings.port, server.running.port]) as port,
    ):
        scheduler = Scheduler(server)
        worker = a_worker(f"localhost:{port}", scheduler_tls, scheduler, concurrency=2)
        started = asyncio.Event()
        tasks: list[Task] = []

        @worker.task(scheduler.kind)
        async def outlive(task: Task) -> Any:
            tasks.append(task)
            if len(tasks) == 2:
                started.set()
            # Longer than the lease lasts that it has from the replica which stands still.
            await asyncio.sleep(LEASE_SECONDS)
            return task.description

        async with asyncio.timeout(30):
            working = asyncio.create_task(worker.run())
            ids = [(await scheduler.create(str(number))).task_id for number in range(2)]
            await started.wait()
            process.signal(signal.SIGSTOP)
            # It takes more as well: what the silent stream was promised holds no place.
            ids.append((await scheduler.create("2")).task_id)
            for number, task_id in enumerate(ids):
                events = await scheduler.watch(task_id)
                assert [event.WhichOneof("change") for event in events] == ["created", "started", "completed"]
                assert (await scheduler.get(task_id)).result == value(str(number))
            assert [task.stop_reason for task in tasks] == [""] * 3
            worker.stop()
            await working
    assert [record.getMessage() for record in caplog.records if "hears nothing" in record.getMessage()] != []


@pytest.mark.parametrize(
    ("place", "what"),
    [
        # It holds the task's row when it stops: the database ends the transaction.
        ("scheduler.report.before_commit", "delay:5000@1"),
        ("scheduler.stream.before_acks", "cut@1"),
    ],
)
async def test_what_was_told_and_not_acknowledged_is_told_again_and_counts_once(
    place: str, what: str, settings: SchedulerSettings, scheduler_tls: Path, tmp_path: Path
) -> None:
    other = settings.model_copy(update={"port": 0})
    async with (
        replica(settings, scheduler_tls, tmp_path, f"{place}={what}") as process,
        running(open_service, other, scheduler_tls) as server,
        tcp_proxy([settings.port, server.running.port]) as port,
    ):
        scheduler = Scheduler(server)
        worker = a_worker(f"localhost:{port}", scheduler_tls, scheduler)

        @worker.task(scheduler.kind)
        async def answer(task: Task) -> Any:
            return task.attempt

        async with asyncio.timeout(40):
            working = asyncio.create_task(worker.run())
            task = await scheduler.create()
            await until(lambda: place in process.tail())
            if what.startswith("delay"):
                process.signal(signal.SIGSTOP)
            await until(lambda: worker.connected and not len(worker._reports))
            process.signal(signal.SIGCONT)
            events = await scheduler.watch(task.task_id)
            worker.stop()
            await working
    assert [event.WhichOneof("change") for event in events] == ["created", "started", "completed"]
    assert events[-1].completed.result == value(1)


async def test_without_another_replica_what_runs_is_stopped_before_its_lease_ends(
    settings: SchedulerSettings, scheduler_tls: Path, tmp_path: Path
) -> None:
    lease = LEASE_SECONDS / 2
    settings = settings.model_copy(update={"lease_seconds": lease, "heartbeat_seconds": lease / 5})
    other = settings.model_copy(update={"port": 0})
    async with replica(settings, scheduler_tls, tmp_path) as process, running(open_service, other, scheduler_tls) as server:
        scheduler = Scheduler(server)
        worker = a_worker(f"localhost:{settings.port}", scheduler_tls, scheduler, concurrency=1)
        loop = asyncio.get_running_loop()
        started = asyncio.Event()
        ended: list[tuple[int, str, float]] = []

        @worker.task(scheduler.kind)
        async def wait(task: Task) -> Any:
            started.set()
            try:
                if task.attempt == 1:
                    await asyncio.Event().wait()
            finally:
                ended.append((task.attempt, task.stop_reason, loop.time()))
            return "the second time"

        async with asyncio.timeout(40):
            working = asyncio.create_task(worker.run())
            task = await scheduler.create()
            await started.wait()
            process.signal(signal.SIGSTOP)
            stopped = loop.time()
            # The replica that lives gives the task back when the lease has ended.
            await scheduler.until_event(task.task_id, "retried")
            # Nothing was renewed after the signal, so that the lease ended at most its length after it.
            assert [(attempt, reason) for attempt, reason, _ in ended] == [(1, "LEASE_ENDED")]
            assert ended[0][2] - stopped < lease
            process.signal(signal.SIGCONT)
            events = await scheduler.watch(task.task_id)
            assert [event.WhichOneof("change") for event in events] == ["created", "started", "retried", "started", "completed"]
            assert [(attempt, reason) for attempt, reason, _ in ended] == [(1, "LEASE_ENDED"), (2, "")]
            worker.stop()
            await working
