"""What of a user's text is on Kafka: none of it, all of it, or all of it until the user is erased."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg2
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from guildmesh.events.v1 import task_event_pb2 as events_pb
from guildmesh.events.v1.dead_letter_pb2 import TaskDeadLettered
from guildmesh.events.v1.task_event_pb2 import TaskEvent, TaskSnapshot
from guildmesh.scheduler.v1 import event_key_service_pb2 as keys_pb
from guildmesh.scheduler.v1 import event_key_service_pb2_grpc as keys_grpc
from guildmesh.scheduler.v1 import event_log_service_pb2_grpc as logs_grpc
from guildmesh.scheduler.v1 import queue_pb2, schedule_pb2, task_pb2
from guildmesh.scheduler.v1 import queue_service_pb2 as queues_pb
from guildmesh.scheduler.v1 import queue_service_pb2_grpc as queues_grpc
from guildmesh.scheduler.v1 import schedule_service_pb2 as schedules_pb
from guildmesh.scheduler.v1 import schedule_service_pb2_grpc as schedules_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh_client.event_keys import EventKeys, KeyNotGiven, WrongKey, open_event
from guildmesh_client.worker import Task, TaskFailed, Worker
from pydantic import SecretStr

from services.common.context import Principal
from services.common.grpcx.status import error_info
from services.common.ids import new_id
from services.embedded.data_check import check_data
from services.scheduler.bootstrap import open_service
from services.scheduler.domain.errors import EventKeySealed, EventKeysNotSet
from services.scheduler.relay.replay import Target, replay_events
from services.scheduler.relay.replay_progress import ReplayRange
from services.scheduler.relay.settings import RelaySettings, ReplaySettings
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
from tests.integration.scheduler.test_replay_events import by_task, everything
from tests.integration.scheduler.test_watch_tasks import Stream
from tests.support.service import metadata, running

PLAIN, OMIT, ENCRYPTED = events_pb.EVENT_CONTENT_PLAIN, events_pb.EVENT_CONTENT_OMIT, events_pb.EVENT_CONTENT_ENCRYPTED
LAST = ("completed", "failed", "cancelled")


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


FINAL = ("COMPLETED", "FAILED", "CANCELLED")


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


async def test_omit_leaves_no_byte_of_a_text_on_kafka_and_all_of_it_with_the_task(world: World) -> None:
    scheduler, marker = world.scheduler, unique("marker")
    queue = await world.queue(OMIT)
    stream = await Stream(scheduler).open()
    made = await write_everywhere(world, queue, marker)
    events, states = await world.records(4)
    assert marker.encode() not in everything_of(events + states + world.dead_letters)
    [letter] = [TaskDeadLettered.FromString(r.value) for r in world.dead_letters]
    assert (letter.task_id, letter.message_size_bytes) == (made["fail"], len(marker))
    kinds = {TaskEvent.FromString(r.value).WhichOneof("change") for r in events if TaskEvent.FromString(r.value).content}
    assert kinds == {
        "created", "step_completed", "retried", "completed", "failed", "cancelled", "waiting", "signalled", "output",
        "tool_returned",
    }  # fmt: skip
    # Who watches gets the log's own events, though they come from the topic.
    seen = await stream.until(lambda seen: sum(event.WhichOneof("change") in LAST for event in seen) >= 4)
    logged = {task_id: await scheduler.watch(task_id) for task_id in made.values()}
    for task_id, whole in logged.items():
        assert [event for event in seen if event.task_id == task_id] == whole
        assert not any(event.content for event in whole)
        told = [TaskEvent.FromString(r.value) for r in events if r.key.decode() == task_id]
        assert [(e.number, e.WhichOneof("change"), e.actor) for e in told] == [
            (e.number, e.WhichOneof("change"), e.actor) for e in whole
        ]
        for event, full in zip(told, whole, strict=True):
            assert bool(event.content) == (marker.encode() in full.SerializeToString())
    first = TaskEvent.FromString(next(r.value for r in events if r.key.decode() == made["fail"]))
    text = f"{marker} fail".encode()
    assert (first.created.description_size_bytes, first.created.omitted_labels) == (len(text), 2)
    assert first.created.description_sha256 == hashlib.sha256(text).hexdigest()
    assert (await scheduler.get(made["complete"])).result.list_value[0] == marker
    # Another queue of the same mesh says all.
    await scheduler.cancel((await scheduler.create(marker, kind="nobody")).task_id)
    assert marker.encode() in everything_of((await world.records(5))[0])


async def test_a_user_who_is_erased_can_no_longer_be_read_and_another_still_can(world: World) -> None:
    scheduler, marker = world.scheduler, unique("marker")
    queue = await world.queue(ENCRYPTED)

    async def work(task: Task) -> Any:
        return f"{marker} for {task.description}"

    async with world.working(work):
        mine = await scheduler.create(f"{marker} of ada", queue=queue)
        his = await scheduler.create(f"{marker} of bob", by=world.bob, queue=queue)
        await scheduler.watch(mine.task_id)
        await scheduler.watch(his.task_id)
    open_task = await scheduler.create(f"{marker} of ada, open", queue=queue, kind="nobody")
    records, states = await world.records(2)
    assert marker.encode() not in everything_of(records + states)
    assert not any(TaskSnapshot.FromString(r.value).result_sha256 for r in states)
    sealed = [TaskEvent.FromString(r.value) for r in records if TaskEvent.FromString(r.value).encrypted_event]
    assert {dict(r.headers)["ce_datakeyid"].decode() for r in records if b"ce_datakeyid" in everything_of([r])} == {
        event.data_key_id for event in sealed
    }
    readers = {who.subject: EventKeys(scheduler.channel, metadata(who)) for who in (scheduler.ada, world.bob, world.admin)}
    for event in sealed:
        owner, other = ("ada", "bob") if event.task_id != his.task_id else ("bob", "ada")
        whole = await event_of(scheduler, event.task_id, event.number)
        assert await readers[owner].open(event) == whole == await readers["chief"].open(event)
        with pytest.raises(KeyNotGiven):
            await readers[other].open(event)
    stranger = Principal("eve", unique("globex"), frozenset({"admin"}))
    with pytest.raises(KeyNotGiven):
        await EventKeys(scheduler.channel, metadata(stranger)).open(sealed[0])

    schedules = schedules_grpc.ScheduleServiceStub(scheduler.channel)
    schedule = schedule_pb2.Schedule(cron="0 0 29 2 *", task=task_pb2.Task(description="again", queue=queue))
    for who in (scheduler.ada, world.bob):
        asked = schedules_pb.CreateScheduleRequest(schedule=schedule, schedule_id=f"of-{who.subject}")
        await schedules.CreateSchedule(asked, metadata=metadata(who))
    first = await world.erase("ada")
    assert await world.erase("ada") == first, "a repeat changes nothing"
    replayed, _ = await world.records(2)
    assert {(r.key, r.value) for r in records} <= {(r.key, r.value) for r in replayed}
    fresh = EventKeys(scheduler.channel, metadata(world.admin))
    for event in sealed:
        if event.task_id == his.task_id:
            assert marker in str(await fresh.open(event))
            continue
        with pytest.raises(KeyNotGiven, match="destroyed"):
            await fresh.open(event)
    assert world.query("SELECT username FROM event_keys WHERE sealed_key IS NOT NULL") == [("bob",)]
    # What ada's open tasks still say, nobody can read either; nothing new begins.
    await scheduler.cancel(open_task.task_id, marker)
    records, states = await world.records(3)
    assert marker.encode() not in everything_of(records + states)
    last = TaskEvent.FromString(next(r.value for r in reversed(records) if r.key.decode() == open_task.task_id))
    assert (last.WhichOneof("change"), last.content, last.encrypted_event) == ("cancelled", ENCRYPTED, b"")
    for queue_name in (queue, "default"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await scheduler.create(queue=queue_name, kind="nobody")
        assert error_info(refused.value) == ("USER_ERASED", {"username": "ada"})
    await scheduler.create(by=world.bob, queue=queue, kind="nobody")
    paused = "SELECT schedule_id, paused, last_error LIKE '%%erased%%' FROM schedules ORDER BY schedule_id"
    assert world.query(paused) == [("of-ada", True, True), ("of-bob", False, False)]
    # The tenant's own view of a task is not what Kafka has.
    assert (await scheduler.get(mine.task_id, by=world.admin)).description == f"{marker} of ada"
    world.sound()


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


async def test_only_identity_destroys_keys(world: World) -> None:
    for other in ("gateway", "agent"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await world.erase("ada", world.scheduler.server.channel(other))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_stricter_queue_holds_for_the_coming_events_of_open_tasks(world: World) -> None:
    scheduler, markers = world.scheduler, [unique("marker") for _ in range(3)]
    queue = await world.queue(PLAIN)
    task = await scheduler.create(markers[0], queue=queue, kind="nobody")
    await world.change(queue, ENCRYPTED)
    second = await scheduler.create(markers[1], queue=queue, kind="nobody")
    await scheduler.cancel(task.task_id, markers[2])
    await scheduler.cancel(second.task_id, markers[2])
    await world.change(queue, PLAIN)
    records, states = await world.records(2)
    told = everything_of(records + states)
    assert markers[0].encode() in told
    assert markers[1].encode() not in told
    assert markers[2].encode() not in told
    mine = [TaskEvent.FromString(r.value) for r in records if r.key.decode() == task.task_id]
    assert [(e.content, e.data_key_id) for e in mine] == [(0, ""), (ENCRYPTED, "")], "it has no key"
    theirs = [TaskEvent.FromString(r.value) for r in records if r.key.decode() == second.task_id]
    assert [e.content for e in theirs] == [ENCRYPTED, ENCRYPTED]
    reader = EventKeys(scheduler.channel, metadata(world.admin))
    assert (await reader.open(theirs[1])).cancelled.cause == markers[2]


async def test_a_replay_publishes_what_was_published_and_of_who_is_erased_what_is_left(world: World) -> None:
    scheduler, marker = world.scheduler, unique("marker")
    queues = [await world.queue(content) for content in (OMIT, ENCRYPTED)]
    for queue in queues:
        await write_everywhere(world, queue, marker)
    # One that goes on.
    await scheduler.create(marker, queue=queues[1], kind="nobody")
    await until_outbox_empty(world.settings)
    both = "SELECT next_event_number FROM tasks UNION ALL SELECT next_event_number FROM finished_tasks"
    [(count,)] = world.query(f"SELECT sum(next_event_number - 1)::int FROM ({both}) t")
    replay = replay_of(world.relay, event_master_key=world.settings.event_master_key)

    async def again(settings: ReplaySettings = replay) -> dict[str, list[Any]]:
        topic = unique("again")
        done = await replay_events(settings, ReplayRange(since="2020-01-01T00:00:00+00:00"), Target(topic), lambda _: None)
        assert done.records == count
        return by_task(await everything(settings, topic, count))

    published = by_task(await everything(replay, world.relay.events_topic, count))
    assert await again() == published
    with pytest.raises(EventKeysNotSet):
        await again(replay_of(world.relay))
    with pytest.raises(EventKeySealed):
        await again(replay_of(world.relay, event_master_key=a_master_key()))
    await world.erase("ada")
    left = await again()
    assert left.keys() == published.keys()
    encrypted = 0
    for task_id, records in left.items():
        for (*_, value, headers), (*_, before, headers_before) in zip(records, published[task_id], strict=True):
            event = TaskEvent.FromString(before)
            encrypted += bool(event.encrypted_event)
            event.ClearField("encrypted_event")
            event.ClearField("data_key_id")
            assert TaskEvent.FromString(value) == event
            assert headers == tuple(header for header in headers_before if header[0] != "ce_datakeyid")
    assert encrypted > 20


async def test_a_large_result_is_read_where_the_record_says(world: World) -> None:
    scheduler, text = world.scheduler, "x" * (100 << 10)

    async def work(task: Task) -> Any:
        async def look() -> Any:
            return text

        await task.step("look", look)
        return text

    stream = await Stream(scheduler, filter=f"kind = {scheduler.kind}").open()
    async with world.working(work):
        task = await scheduler.create()
        whole = await scheduler.watch(task.task_id)
    seen = await stream.until(lambda seen: len(seen) >= len(whole))
    assert seen == whole
    records, _ = await world.records(1)
    last = TaskEvent.FromString(records[-1].value)
    assert len(records[-1].value) < 1000
    assert (last.content, last.completed.reference) == (OMIT, f"/v1/tasks/{task.task_id}")
    [(result,)] = world.query("SELECT result FROM finished_tasks")
    assert (last.completed.result_size_bytes, last.completed.result_sha256) == (len(result), hashlib.sha256(result).hexdigest())


async def test_the_master_key_is_changed_while_keys_are_in_use(world: World, scheduler_tls: Path) -> None:
    scheduler, queue = world.scheduler, await world.queue(ENCRYPTED)
    task = await scheduler.create("a secret", queue=queue, kind="nobody")
    [(key_id, before)] = world.query("SELECT key_id::text, master_key_id FROM event_keys")
    old, new = world.settings.event_master_key, a_master_key()
    request = keys_pb.GetEventKeyRequest(key_id=key_id.upper())
    key = (await world.keys.GetEventKey(request, metadata=metadata(scheduler.ada))).key

    async def read(**masters: Any) -> bytes:
        async with running(open_service, world.settings.model_copy(update=masters), scheduler_tls) as server:
            stub = keys_grpc.EventKeyServiceStub(server.channel())
            if "event_master_key_before" in masters:
                await until(lambda: not world.query("SELECT 1 FROM event_keys WHERE master_key_id = %s", before))
            found: bytes = (await stub.GetEventKey(request, metadata=metadata(scheduler.ada))).key
            return found

    assert await read(event_master_key=new, event_master_key_before=old) == key
    assert await read(event_master_key=new) == key
    for masters, reason in (
        ({"event_master_key": a_master_key()}, "EVENT_KEY_SEALED"),
        ({"event_master_key": None}, "EVENT_KEYS_NOT_SET"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await read(**masters)
        assert error_info(refused.value)[0] == reason
    await scheduler.cancel(task.task_id)
    records, _ = await world.records(1)
    first = TaskEvent.FromString(records[0].value)
    assert open_event(first, key).created.description == "a secret"
    with pytest.raises(WrongKey):
        open_event(first, os.urandom(64))


async def test_what_waits_for_kafka_is_found_sound_and_what_is_not_the_log_s_is_found(
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    scheduler_tls: Path,
    empty_database_url: str,
) -> None:
    settings = own_settings(event_master_key=a_master_key())
    async with running(open_service, settings, scheduler_tls) as server:
        scheduler = Scheduler(server)
        world = World(scheduler, RelaySettings(_env_file=None), empty_database_url, settings)

        async def work(task: Task) -> Any:
            return "x" * int(task.description)

        async with world.working(work):
            for content in (PLAIN, OMIT, ENCRYPTED):
                queue = await world.queue(content)
                for size in ("7", "100000"):
                    await scheduler.watch((await scheduler.create(size, queue=queue)).task_id)
        world.sound()
    [(row, payload)] = world.query("SELECT position, payload FROM outbox ORDER BY position DESC LIMIT 1")
    told = bytes(payload)
    assert told.count(b"\x68\x03\xc2\x01") == 1, "it says that its content is encrypted"
    # The completed event says another size than the log's has.
    size = told.index(b"\x68\x03\xc2\x01") + len(b"\x68\x03\xc2\x01") + 2
    other = told[:size] + bytes([told[size] ^ 1]) + told[size + 1 :]
    world.query("UPDATE outbox SET payload = %s WHERE position = %s RETURNING 1", other, row)
    problems = [text for finding in check_data(empty_database_url) for text in finding.problems]
    assert any("is not what its log has" in problem for problem in problems), problems


async def test_without_a_master_key_nothing_can_be_encrypted(
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    scheduler_tls: Path,
) -> None:
    async with running(open_service, own_settings(), scheduler_tls) as server:
        admin = Principal("chief", unique("acme"), frozenset({"admin"}))
        stub = queues_grpc.QueueServiceStub(server.channel())
        for content, reason in ((ENCRYPTED, "EVENT_KEYS_NOT_SET"), (7, "INVALID_ARGUMENT")):
            request = queues_pb.CreateQueueRequest(queue=queue_pb2.Queue(queue="secret", event_content=content))  # type: ignore[arg-type]
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.CreateQueue(request, metadata=metadata(admin))
            assert error_info(refused.value)[0] == reason
        await stub.CreateQueue(
            queues_pb.CreateQueueRequest(queue=queue_pb2.Queue(queue="open", event_content=OMIT)), metadata=metadata(admin)
        )
        request_update = queues_pb.UpdateQueueRequest(queue=queue_pb2.Queue(queue="open", event_content=ENCRYPTED))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.UpdateQueue(request_update, metadata=metadata(admin))
        assert error_info(refused.value)[0] == "EVENT_KEYS_NOT_SET"
