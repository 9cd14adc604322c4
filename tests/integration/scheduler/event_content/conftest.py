"""A scheduler that chooses what of texts goes to Kafka, with keys, a relay, and what came of them."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from guildmesh.events.v1 import task_event_pb2 as events_pb
from guildmesh.events.v1.task_event_pb2 import TaskEvent, TaskSnapshot
from guildmesh.scheduler.v1 import event_key_service_pb2 as keys_pb
from guildmesh.scheduler.v1 import event_key_service_pb2_grpc as keys_grpc
from guildmesh.scheduler.v1 import event_log_service_pb2_grpc as logs_grpc
from guildmesh.scheduler.v1 import queue_pb2
from guildmesh.scheduler.v1 import queue_service_pb2 as queues_pb
from guildmesh.scheduler.v1 import queue_service_pb2_grpc as queues_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh_client.worker import Task, TaskFailed, Worker
from pydantic import SecretStr

from services.common.context import Principal
from services.common.ids import new_id
from services.embedded.data_check import check_data
from services.scheduler.bootstrap import open_service
from services.scheduler.relay.settings import RelaySettings
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.test_event_log import Log
from tests.integration.scheduler.test_relay import (  # noqa: F401 - fixtures
    MakeRelay,
    own_settings,
    relay_settings,
    relaying,
    replay_of,
    until_outbox_empty,
    wait_ready,
)
from tests.support.service import metadata, running

PLAIN, OMIT, ENCRYPTED = events_pb.EVENT_CONTENT_PLAIN, events_pb.EVENT_CONTENT_OMIT, events_pb.EVENT_CONTENT_ENCRYPTED
LAST = ("completed", "failed", "cancelled")
FINAL = ("COMPLETED", "FAILED", "CANCELLED")


def a_master_key() -> SecretStr:
    return SecretStr(base64.b64encode(os.urandom(32)).decode())


@dataclass
class World:
    """A scheduler with keys, a relay, and what came of them on Kafka."""

    scheduler: Scheduler
    relay: RelaySettings
    url: str
    settings: Any

    def __post_init__(self) -> None:
        tenant = self.scheduler.ada.tenant_id
        self.bob = Principal("bob", tenant, frozenset({"user"}))
        self.admin = Principal("chief", tenant, frozenset({"admin"}))
        self.keys = keys_grpc.EventKeyServiceStub(self.scheduler.channel)
        self.queues = queues_grpc.QueueServiceStub(self.scheduler.channel)
        self.log = Log(self.scheduler, logs_grpc.EventLogServiceStub(self.scheduler.server.channel("tool")))
        self.dead_letters: list[Any] = []
        """the records of dead letters, as of the last reading of all."""

    async def queue(self, content: events_pb.EventContent.ValueType, name: str = "") -> str:
        queue = queue_pb2.Queue(queue=name or unique("q"), event_content=content)
        made = await self.queues.CreateQueue(queues_pb.CreateQueueRequest(queue=queue), metadata=metadata(self.admin))
        assert made.event_content == content
        return made.queue

    async def change(self, queue: str, content: events_pb.EventContent.ValueType) -> None:
        request = queues_pb.UpdateQueueRequest(queue=queue_pb2.Queue(queue=queue, event_content=content))
        await self.queues.UpdateQueue(request, metadata=metadata(self.admin))

    @asynccontextmanager
    async def working(self, work: Callable[[Task], Any]) -> AsyncIterator[None]:
        worker = Worker(channel=self.scheduler.channel, metadata=metadata(self.scheduler.ada), concurrency=20)
        worker.task(self.scheduler.kind)(work)
        running_worker = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            worker.stop()
            await running_worker

    async def records(self, ended: int) -> tuple[list[Any], list[Any]]:
        """All events and states, once so many tasks have ended; a second reading gets them all again."""
        topics = (self.relay.events_topic, self.relay.state_topic, self.relay.dead_letters_topic)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.relay.kafka_bootstrap_servers,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            metadata_max_age_ms=500,
        )
        consumer.assign([TopicPartition(topic, partition) for topic in topics for partition in range(16)])
        found: dict[str, list[Any]] = {topic: [] for topic in topics}
        await consumer.start()
        try:
            async with asyncio.timeout(30):
                while True:
                    for place, batch in (await consumer.getmany(timeout_ms=100)).items():
                        found[place.topic] += batch
                    over = [r for r in found[topics[0]] if TaskEvent.FromString(r.value).WhichOneof("change") in LAST]
                    states = {r.key for r in found[topics[1]] if TaskSnapshot.FromString(r.value).state in FINAL}
                    failed = sum(TaskEvent.FromString(r.value).WhichOneof("change") == "failed" for r in over)
                    self.dead_letters = found[topics[2]]
                    if len(over) >= ended and len(states) >= ended and len(self.dead_letters) == failed:
                        return found[topics[0]], found[topics[1]]
        finally:
            await consumer.stop()

    async def erase(self, username: str, channel: Any = None) -> keys_pb.EraseUserKeysResponse:
        stub = keys_grpc.EventKeyServiceStub(channel or self.scheduler.server.channel("identity"))
        request = keys_pb.EraseUserKeysRequest(tenant_id=self.scheduler.ada.tenant_id, username=username)
        return await stub.EraseUserKeys(request)  # type: ignore[no-any-return]

    def query(self, statement: str, *arguments: object) -> list[Any]:
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SET ROLE scheduler_engine; SET search_path = scheduler")
            cursor.execute(statement, arguments)
            return list(cursor.fetchall())

    def sound(self) -> None:
        assert [text for finding in check_data(self.url) for text in finding.problems] == []


@pytest.fixture
async def world(
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    scheduler_tls: Path,
    empty_database_url: str,
) -> AsyncIterator[World]:
    relay = relay_settings()
    settings = own_settings(
        kafka_bootstrap_servers=relay.kafka_bootstrap_servers,
        events_topic=relay.events_topic,
        event_master_key=a_master_key(),
    )
    async with running(open_service, settings, scheduler_tls) as server, relaying(relay) as process:
        await wait_ready(process)
        yield World(Scheduler(server), relay, empty_database_url, settings)


def everything_of(records: list[Any]) -> bytes:
    """Every byte that a reader of the topic gets."""
    return b"\0".join(
        part for r in records for part in (r.key, r.value or b"", *(each for n, v in r.headers for each in (n.encode(), v)))
    )


async def write_everywhere(world: World, queue: str, marker: str) -> dict[str, str]:
    """Has tasks whose every text is the marker; gives the ids of those that end, by how."""

    async def work(task: Task) -> Any:
        await task.output(marker)

        async def look() -> Any:
            return {marker: marker}

        await task.step("look", look)
        if task.description.endswith("fail"):
            raise TaskFailed("BROKEN", marker)
        if task.description.endswith("retry") and task.attempt == 1:
            raise TaskFailed("AGAIN", marker, retryable=True, retry_delay=0.01)
        return [marker, await task.wait_for("approval", prompt=marker)]

    scheduler = world.scheduler
    fields = {"queue": queue, "labels": {"note": marker, f"x-{marker}": "1"}}
    context = {marker: marker}
    made = {}
    for how in ("complete", "fail", "retry", "cancel"):
        kind = unique("nobody") if how == "cancel" else scheduler.kind
        task = await scheduler.create(f"{marker} {how}", context=context, kind=kind, **fields)
        made[how] = task.task_id
    async with world.working(work):
        await scheduler.cancel(made["cancel"], marker)
        for how in ("complete", "retry"):
            await scheduler.until_event(made[how], "waiting")
            if how == "complete":
                run = new_id()
                returned = world.log.returned(made[how], run)
                returned.tool_returned.error = marker
                returned.tool_returned.result.struct_value.update({marker: [marker]})
                assert not any(reason for _, reason in await world.log.append(world.log.called(made[how], run), returned))
            request = pb.SignalTaskRequest(task_id=made[how], signal="approval")
            request.value.string_value = marker
            await scheduler.stub.SignalTask(request, metadata=metadata(scheduler.ada))
        for task_id in made.values():
            await scheduler.watch(task_id)
    return made


async def event_of(scheduler: Scheduler, task_id: str, number: int) -> TaskEvent:
    """An event as the log has it."""
    request = pb.WatchTaskRequest(task_id=task_id, after_event_number=number - 1)
    call = scheduler.stub.WatchTask(request, metadata=metadata(scheduler.ada))
    event = await call.read()
    call.cancel()
    assert isinstance(event, TaskEvent)
    return event


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while True:
            if done():
                return
            await asyncio.sleep(0.02)
