"""The relay publishes the log: on real Kafka, in order, once for each id, whatever is away meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from guildmesh.events.v1.dead_letter_pb2 import TaskDeadLettered
from guildmesh.events.v1.task_event_pb2 import TaskEvent, TaskSnapshot
from guildmesh.scheduler.v1.dead_letter_service_pb2 import GetDeadLetterRequest
from guildmesh.scheduler.v1.dead_letter_service_pb2_grpc import DeadLetterServiceStub
from guildmesh.scheduler.v1.scheduler_service_pb2 import WatchTasksRequest
from guildmesh_client.worker import Task, Worker
from pydantic import SecretStr

from services.common.db.driver import open_driver
from services.common.db.engine_role import EngineDriver
from services.common.db.migrations import migrate
from services.common.lanes import Ownership
from services.common.service import RunningService
from services.scheduler.bootstrap import open_service
from services.scheduler.domain.shards import LANES
from services.scheduler.relay.bootstrap import open_relay
from services.scheduler.relay.settings import RelaySettings, ReplaySettings
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.support.service import metadata, running

MakeRelay = Callable[..., RelaySettings]


@pytest.fixture
def own_settings(scheduler_settings: MakeSettings, empty_database_url: str) -> MakeSettings:
    """Settings of a scheduler with a database of its own: a relay publishes all of its database."""

    def make(**changes: Any) -> Any:
        return scheduler_settings(database_url=SecretStr(empty_database_url), **changes)

    migrate(make(), package="services.scheduler.storage.migrations", schema="scheduler")
    return make


@pytest.fixture
def relay_settings(empty_database_url: str, kafka_bootstrap_servers: str) -> MakeRelay:
    events, state, dead_letters = unique("events"), unique("state"), unique("dead")

    def make(**changes: Any) -> RelaySettings:
        values: dict[str, Any] = {
            "database_url": SecretStr(empty_database_url),
            "kafka_bootstrap_servers": kafka_bootstrap_servers,
            "admin_port": 0,
            "db_pool_size": 6,
            "events_topic": events,
            "state_topic": state,
            "dead_letters_topic": dead_letters,
            "lease_seconds": 1.5,
            "poll_seconds": 0.5,
        }
        return RelaySettings(_env_file=None, **(values | changes))

    return make


def replay_of(settings: RelaySettings, **changes: Any) -> ReplaySettings:
    """The settings of a replay beside a relay."""
    return ReplaySettings(_env_file=None, **(settings.model_dump() | changes))


@asynccontextmanager
async def relaying(settings: RelaySettings) -> AsyncIterator[RunningService]:
    async with open_relay(settings) as service:
        process = RunningService(service, settings)
        await process.start()
        try:
            yield process
        finally:
            await process.stop()


class Reader:
    """Reads a topic from its beginning, committed records only."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self.consumer = consumer
        self.records: list[Any] = []

    async def until(self, done: Callable[[list[Any]], bool], seconds: float = 30) -> list[Any]:
        async with asyncio.timeout(seconds):
            while not done(self.records):
                for batch in (await self.consumer.getmany(timeout_ms=200)).values():
                    self.records += batch
        return self.records


@asynccontextmanager
async def reading(settings: RelaySettings, topic: str) -> AsyncIterator[Reader]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        metadata_max_age_ms=500,
    )
    consumer.assign([TopicPartition(topic, partition) for partition in range(16)])
    await consumer.start()
    try:
        await consumer.seek_to_beginning()
        yield Reader(consumer)
    finally:
        await consumer.stop()


async def all_records(settings: RelaySettings, topic: str) -> list[Any]:
    """What lies on a topic now."""
    async with reading(settings, topic) as reader:
        ends = await reader.consumer.end_offsets(reader.consumer.assignment())
        while any([await reader.consumer.position(each) < end for each, end in ends.items()]):
            for batch in (await reader.consumer.getmany(timeout_ms=200)).values():
                reader.records += batch
        return reader.records


def header(record: Any, name: str) -> str:
    return str(dict(record.headers)[name], "utf-8")


def check_order(records: list[Any]) -> dict[str, list[int]]:
    """Numbers of each task, exact repeats dropped; fails when a number goes back otherwise or leaves a gap."""
    numbers: dict[str, list[int]] = {}
    seen: dict[str, bytes] = {}
    for record in records:
        identity = header(record, "ce_id")
        if identity in seen:
            assert record.value == seen[identity], "a repeat differs"
            continue
        seen[identity] = record.value
        event = TaskEvent.FromString(record.value)
        numbers.setdefault(event.task_id, []).append(event.number)
    for task_id, line in numbers.items():
        assert line == list(range(1, len(line) + 1)), f"{task_id}: {line}"
    return numbers


async def wait_ready(process: RunningService) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                for check in process.service.checks.values():
                    await check()
                return
            except Exception:
                await asyncio.sleep(0.1)


async def test_events_arrive_in_order_with_their_cloudevents_headers(
    own_settings: MakeSettings, relay_settings: MakeRelay, scheduler_tls: Any
) -> None:
    settings = relay_settings()
    async with (
        running(open_service, own_settings(), scheduler_tls) as server,
        relaying(settings) as relay,
    ):
        scheduler = Scheduler(server)
        await wait_ready(relay)
        task = await scheduler.create("tell Kafka")
        async with scheduler.worker() as worker:
            await worker.complete(await worker.lease(), {"ok": True})
        async with reading(settings, settings.events_topic) as reader:
            records = await reader.until(lambda found: len(found) >= 3)
        async with reading(settings, settings.state_topic) as reader:
            states = await reader.until(lambda found: bool(found) and b"COMPLETED" in found[-1].value)
    assert [header(record, "ce_id") for record in records] == [f"{task.task_id}/{number}" for number in (1, 2, 3)]
    first = records[0]
    assert {name: value.decode() for name, value in first.headers} | {"traceparent": "", "ce_traceparent": ""} == {
        "ce_specversion": "1.0",
        "ce_id": f"{task.task_id}/1",
        "ce_type": "guildmesh.task.created.v1",
        "ce_source": "/guildmesh/scheduler",
        "ce_subject": task.task_id,
        "ce_time": header(first, "ce_time"),
        "ce_sequence": "0000000001",
        "ce_tenantid": scheduler.ada.tenant_id,
        "content-type": "application/protobuf",
        "ce_dataschema": "type.googleapis.com/guildmesh.events.v1.TaskEvent",
        "traceparent": "",
        "ce_traceparent": "",
    }
    assert {record.key.decode() for record in records} == {task.task_id}
    assert TaskEvent.FromString(records[2].value).completed.result.struct_value["ok"] is True
    newest = TaskSnapshot.FromString(states[-1].value)
    assert (newest.state, newest.last_event_number, newest.attempt) == ("COMPLETED", 3, 1)
    assert states[-1].partition == first.partition


async def test_a_task_that_failed_for_good_is_one_record_of_the_dead_letters(
    own_settings: MakeSettings, relay_settings: MakeRelay, scheduler_tls: Any
) -> None:
    settings = relay_settings()
    async with running(open_service, own_settings(), scheduler_tls) as server, relaying(settings) as relay:
        scheduler = Scheduler(server)
        await wait_ready(relay)
        async with scheduler.worker() as worker:
            failed = await scheduler.create("fail")
            await worker.fail(await worker.lease(), "BROKEN", retryable=False)
            done = await scheduler.create("complete")
            await worker.complete(await worker.lease())
        async with reading(settings, settings.events_topic) as reader:
            events = await reader.until(lambda found: len(found) >= 6)
        async with reading(settings, settings.dead_letters_topic) as reader:
            letters = await reader.until(bool)
        stub = DeadLetterServiceStub(scheduler.channel)
        request = GetDeadLetterRequest(task_id=failed.task_id)
        kept = await stub.GetDeadLetter(request, metadata=metadata(scheduler.ada))
    assert {header(record, "ce_subject") for record in events} == {failed.task_id, done.task_id}
    (record,) = letters
    (failure,) = (each for each in events if header(each, "ce_type") == "guildmesh.task.failed.v1")
    letter = TaskDeadLettered.FromString(record.value)
    assert (record.key.decode(), record.partition) == (failed.task_id, failure.partition)
    assert (letter.name, letter.queue, letter.kind) == (f"dead-letters/{failed.task_id}", kept.queue, kept.kind)
    assert (letter.reason, letter.message, letter.attempts) == (kept.reason, "it broke", kept.attempts)
    assert (letter.fail_time, letter.event_number) == (kept.fail_time, 3)
    assert header(record, "ce_type") == "guildmesh.task.dead_lettered.v1"
    assert header(record, "ce_id") == f"{failed.task_id}/3/dead-letter"


async def test_values_are_json_where_that_is_set_and_whoever_watches_reads_them(
    own_settings: MakeSettings, relay_settings: MakeRelay, scheduler_tls: Any
) -> None:
    settings = relay_settings(value_format="json")
    watched = {"kafka_bootstrap_servers": settings.kafka_bootstrap_servers, "events_topic": settings.events_topic}
    async with running(open_service, own_settings(**watched), scheduler_tls) as server, relaying(settings) as relay:
        scheduler = Scheduler(server)
        await wait_ready(relay)
        stream = scheduler.stub.WatchTasks(WatchTasksRequest(), metadata=metadata(scheduler.ada))
        await stream.read()
        task = await scheduler.create("tell Kafka in JSON", labels={"team": "red"})
        async with scheduler.worker() as worker:
            await worker.complete(await worker.lease(), {"ok": True})
        async with reading(settings, settings.events_topic) as reader:
            records = await reader.until(lambda found: len(found) >= 3)
        async with reading(settings, settings.state_topic) as reader:
            states = await reader.until(lambda found: bool(found) and b"COMPLETED" in found[-1].value)
        seen: list[TaskEvent] = []
        async with asyncio.timeout(20):
            while len(seen) < 3:
                response = await stream.read()
                seen += [response.event] if response.HasField("event") else []
    first, last = json.loads(records[0].value), json.loads(records[2].value)
    assert header(records[0], "content-type") == "application/json"
    assert "ce_datacontenttype" not in dict(records[0].headers)
    assert (first["task_id"], first["created"]["labels"]) == (task.task_id, {"team": "red"})
    assert last["completed"]["result"] == {"ok": True}
    assert json.loads(states[-1].value)["last_event_number"] == 3
    assert [event.number for event in seen] == [1, 2, 3]
    assert seen[2].completed.result.struct_value["ok"] is True


async def test_topics_have_their_final_shape(relay_settings: MakeRelay, own_settings: MakeSettings) -> None:
    settings = relay_settings()
    async with relaying(settings) as relay:
        await wait_ready(relay)
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
        await admin.start()
        try:
            names = settings.topic_names
            described = await admin.describe_topics(list(names.all))
            assert [len(topic["partitions"]) for topic in described] == [16, 16, 16]
            for name, policy in ((names.events, "delete"), (names.state, "compact"), (names.dead_letters, "delete")):
                resource = ConfigResource(ConfigResourceType.TOPIC, name)
                (answer,) = await admin.describe_configs([resource])
                values = {entry[0]: entry[1] for entry in answer.resources[0][4]}
                assert values["cleanup.policy"] == policy
                if policy == "delete":
                    assert values["retention.ms"] == "604800000"
        finally:
            await admin.close()


async def test_the_outbox_is_empty_after_publishing_and_many_tasks_keep_their_order(
    own_settings: MakeSettings, relay_settings: MakeRelay, scheduler_tls: Any
) -> None:
    settings = relay_settings()
    async with running(open_service, own_settings(), scheduler_tls) as server, relaying(settings):
        scheduler = Scheduler(server)
        worker = Worker(channel=scheduler.channel, metadata=metadata(scheduler.ada), concurrency=50)

        @worker.task(scheduler.kind)
        async def echo(task: Task) -> Any:
            return task.description

        working = asyncio.create_task(worker.run())
        await asyncio.gather(*(scheduler.create(str(number)) for number in range(200)))
        async with reading(settings, settings.events_topic) as reader:
            records = await reader.until(lambda found: len(found) >= 600)
        worker.stop()
        await working
        numbers = check_order(records)
        assert len(numbers) == 200
        assert all(line == [1, 2, 3] for line in numbers.values())
        await until_outbox_empty(own_settings())


async def test_two_relays_share_the_lanes_and_one_takes_over_when_the_other_leaves(own_settings: MakeSettings) -> None:
    async with open_driver(own_settings(), "scheduler") as database:
        engine = EngineDriver(database)
        one, two = Ownership(engine, "one", 2.0), Ownership(engine, "two", 2.0)
        lanes = LANES
        assert len(await one.renew()) == lanes
        assert len(await two.renew()) == 0
        assert len(await one.renew()) == lanes / 2
        taken = await two.renew()
        assert len(taken) == lanes / 2
        kept = await one.renew()
        assert not kept.keys() & taken.keys()
        assert await two.holds(*next(iter(taken.items())))
        await one.leave()
        everything = await two.renew()
        assert len(everything) == lanes
        lane, epoch = next(iter(kept.items()))
        assert everything[lane] > epoch
        assert not await one.holds(lane, epoch)


async def until_outbox_empty(settings: Any) -> None:
    import psycopg2

    connection = psycopg2.connect(settings.database_url.get_secret_value())
    connection.autocommit = True
    try:
        async with asyncio.timeout(20):
            while True:
                with connection.cursor() as cursor:
                    cursor.execute("SET ROLE scheduler_engine")
                    cursor.execute("SELECT count(*) FROM scheduler.outbox")
                    if cursor.fetchone() == (0,):
                        return
                await asyncio.sleep(0.1)
    finally:
        connection.close()
