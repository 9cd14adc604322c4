"""PostgreSQL and Kafka go away and come back: everything goes on by itself."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psycopg2
import pytest
from guildmesh_client.worker import Task, Worker
from pydantic import SecretStr

from services.common.db.migrations import migrate
from services.common.service import RunningService
from services.embedded.parts.postgres import Postgres
from services.embedded.running import RunningPart
from services.scheduler.adapters.event_topic import EventTopic
from services.scheduler.bootstrap import open_service
from services.scheduler.domain.errors import EventsLate
from services.scheduler.relay.settings import RelaySettings
from services.scheduler.settings import SchedulerSettings
from tests.integration.scheduler.conftest import Scheduler, unique
from tests.integration.scheduler.test_relay import check_order, reading, relaying, until_outbox_empty
from tests.support.logs import configured
from tests.support.servers import postgres_part, running_kafka, running_postgres, server_folder
from tests.support.service import metadata, running


@pytest.fixture
def own_postgres() -> Iterator[RunningPart]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def own_settings(own_postgres: RunningPart, scheduler_tls: Path) -> SchedulerSettings:
    assert isinstance(own_postgres.part, Postgres)
    settings = SchedulerSettings(
        _env_file=None,
        database_url=SecretStr(own_postgres.part.url),
        tls_dir=scheduler_tls / "scheduler",
        port=0,
        admin_port=0,
        db_pool_size=6,
        drain_seconds=0,
        lease_seconds=4,
        heartbeat_seconds=1,
        sweep_seconds=0.3,
        # So long that only LISTEN can bring a wake-up in time.
        lease_poll_seconds=60,
        watch_poll_seconds=60,
    )
    migrate(settings, package="services.scheduler.storage.migrations", schema="scheduler")
    return settings


async def create(scheduler: Scheduler, description: str = "x") -> str:
    """Creates with a request id until it is answered."""
    request_id = unique("request")
    async with asyncio.timeout(30):
        while True:
            try:
                return (await scheduler.create(description, request_id=request_id)).task_id
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)


async def finish(scheduler: Scheduler, task_ids: list[str]) -> None:
    for task_id in task_ids:
        while True:
            try:
                events = await scheduler.watch(task_id)
                break
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert events[-1].WhichOneof("change") == "completed"


def echo_worker(scheduler: Scheduler) -> Worker:
    worker = Worker(channel=scheduler.channel, metadata=metadata(scheduler.ada), concurrency=5)

    @worker.task(scheduler.kind)
    async def echo(task: Task) -> Any:
        await asyncio.sleep(0.05)
        return task.description

    return worker


async def stopped(worker: Worker, task: asyncio.Task[None]) -> None:
    worker.stop()
    async with asyncio.timeout(20):
        await task


@pytest.mark.timeout(180)
async def test_a_restart_of_postgres_in_the_middle_of_the_work(
    own_postgres: RunningPart, own_settings: SchedulerSettings, scheduler_tls: Path
) -> None:
    async with (
        running(open_service, own_settings, scheduler_tls) as one,
        running(open_service, own_settings, scheduler_tls) as two,
    ):
        scheduler, other = Scheduler(one), Scheduler(two)
        other.ada, other.kind = scheduler.ada, scheduler.kind
        worker = echo_worker(other)
        working = asyncio.create_task(worker.run())
        first = await asyncio.gather(*(create(scheduler, str(number)) for number in range(30)))
        await asyncio.to_thread(own_postgres.stop)
        creating = asyncio.gather(*(create(scheduler, str(number)) for number in range(30)))
        await asyncio.sleep(1)
        await asyncio.to_thread(own_postgres.start)
        second = await creating
        await finish(scheduler, [*first, *second])
        # The other replica still hears of new tasks at once.
        await finish(scheduler, [await create(scheduler)])
        await stopped(worker, working)


@pytest.mark.timeout(180)
async def test_killed_backends_in_the_middle_of_the_work(
    own_postgres: RunningPart, own_settings: SchedulerSettings, scheduler_tls: Path
) -> None:
    async with running(open_service, own_settings, scheduler_tls) as server:
        scheduler = Scheduler(server)
        worker = echo_worker(scheduler)
        working = asyncio.create_task(worker.run())
        task_ids: list[str] = []
        for _ in range(5):
            creating = asyncio.gather(*(create(scheduler, str(number)) for number in range(20)))
            await asyncio.to_thread(kill_backends, own_settings)
            task_ids += await creating
        await finish(scheduler, task_ids)
        await stopped(worker, working)


def kill_backends(settings: SchedulerSettings) -> None:
    connection = psycopg2.connect(settings.database_url.get_secret_value())
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'guildmesh-%'")
    finally:
        connection.close()


@pytest.mark.timeout(180)
async def test_the_relay_starts_without_kafka_and_goes_on_after_a_restart_of_it(
    own_settings: SchedulerSettings, scheduler_tls: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with running_kafka() as kafka:
        settings = RelaySettings(
            _env_file=None,
            database_url=own_settings.database_url,
            kafka_bootstrap_servers=kafka.part.bootstrap_servers,  # type: ignore[attr-defined]
            admin_port=0,
            db_pool_size=4,
            lease_seconds=1.5,
            late_seconds=1.0,
        )
        kafka.stop()
        async with running(open_service, own_settings, scheduler_tls) as server, relaying(settings) as relay:
            scheduler = Scheduler(server)
            task_ids = [await create(scheduler, "before")]
            with pytest.raises(Exception, match="Kafka"):
                await relay.service.checks["kafka"]()
            await asyncio.to_thread(kafka.start)
            async with reading(settings, settings.events_topic) as reader:
                await reader.until(lambda found: len(found) >= 1)
            await relay.service.checks["kafka"]()
            await a_reader_is_not_loud_while_kafka_is_away(kafka, settings, capfd)
            task_ids.append(await create(scheduler, "between"))
            await asyncio.to_thread(kafka.start)
            async with reading(settings, settings.events_topic) as reader:
                records = await reader.until(lambda found: len(check_order(found)) >= 2, 60)
            assert set(check_order(records)) == set(task_ids)
            await a_broker_that_stands_still(kafka, scheduler, relay, settings)


async def a_reader_is_not_loud_while_kafka_is_away(
    kafka: RunningPart, settings: RelaySettings, capfd: pytest.CaptureFixture[str]
) -> None:
    """Stops Kafka under a reader of the topic, as watch streams and webhooks have one; it tries again 20 times a second."""
    with configured():
        async with EventTopic(settings).open() as reader:
            begin, _ = await reader.bounds()
            reader.seek(begin)
            records, _ = await reader.read(10, 5)
            assert records
            capfd.readouterr()
            await asyncio.to_thread(kafka.stop)
            for _ in range(4):
                await reader.read(10, 0.5)
    out, err = capfd.readouterr()
    said = [line for line in (out + err).splitlines() if '"logger": "aiokafka' in line]
    # At least one, and each thing only once, by the reader and the relay's producers together.
    assert 1 <= len(said) <= 12, said


async def lag(relay: RunningService, *, late: bool) -> dict[str, Any]:
    """What the relay says of the events that wait, once they are late, or are not."""
    async with asyncio.timeout(20):
        while True:
            _, told = await relay.service.admin_routes["/lag"]()
            waiting: dict[str, Any] = json.loads(told)
            if waiting["late"] is late:
                return waiting
            await asyncio.sleep(0.1)


async def a_broker_that_stands_still(
    kafka: RunningPart, scheduler: Scheduler, relay: RunningService, settings: RelaySettings
) -> None:
    """Tasks go on, the relay says how late their events are, and what waits is published when the broker goes on."""
    worker = echo_worker(scheduler)
    working = asyncio.create_task(worker.run())
    # What a reader has seen, the relay may not have taken out of the outbox yet.
    await lag(relay, late=False)
    await relay.service.checks["events"]()
    kafka.send(signal.SIGSTOP)
    try:
        task_ids = await asyncio.gather(*(create(scheduler, str(number)) for number in range(30)))
        await finish(scheduler, task_ids)
        assert (await lag(relay, late=True))["events"] >= 90
        with pytest.raises(EventsLate, match="tasks go on meanwhile"):
            await relay.service.checks["events"]()
        with pytest.raises(Exception, match="Kafka"):
            await relay.service.checks["kafka"]()
    finally:
        kafka.send(signal.SIGCONT)

    def all_there(found: list[Any]) -> bool:
        numbers = check_order(found)
        return all(numbers.get(task_id) == [1, 2, 3] for task_id in task_ids)

    async with reading(settings, settings.events_topic) as reader:
        await reader.until(all_there, 60)
    await until_outbox_empty(settings)
    async with asyncio.timeout(5):
        while True:
            if not json.loads((await relay.service.admin_routes["/lag"]())[1])["events"]:
                break
            await asyncio.sleep(0.1)
    await relay.service.checks["events"]()
    await stopped(worker, working)


@pytest.mark.timeout(120)
async def test_a_scheduler_starts_without_postgres_and_is_ready_when_it_comes(scheduler_tls: Path) -> None:
    with server_folder("late") as folder:
        part = postgres_part(folder)
        late = RunningPart(part, folder / "log")
        late.start()
        settings = SchedulerSettings(
            _env_file=None,
            database_url=SecretStr(part.url),
            tls_dir=scheduler_tls / "scheduler",
            port=0,
            admin_port=0,
            drain_seconds=0,
        )
        migrate(settings, package="services.scheduler.storage.migrations", schema="scheduler")
        late.stop()
        async with running(open_service, settings, scheduler_tls) as server:
            with pytest.raises(Exception, match="database"):
                await server.running.service.checks["database"]()
            await asyncio.to_thread(late.start)
            try:
                await create(Scheduler(server))
                await server.running.service.checks["database"]()
            finally:
                await asyncio.to_thread(late.stop)
