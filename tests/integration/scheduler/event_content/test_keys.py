"""What is encrypted can be read until its user is erased, and the keys outlive their master key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc
import pytest
from guildmesh.events.v1.task_event_pb2 import TaskEvent, TaskSnapshot
from guildmesh.scheduler.v1 import event_key_service_pb2 as keys_pb
from guildmesh.scheduler.v1 import event_key_service_pb2_grpc as keys_grpc
from guildmesh.scheduler.v1 import queue_pb2, schedule_pb2, task_pb2
from guildmesh.scheduler.v1 import queue_service_pb2 as queues_pb
from guildmesh.scheduler.v1 import queue_service_pb2_grpc as queues_grpc
from guildmesh.scheduler.v1 import schedule_service_pb2 as schedules_pb
from guildmesh.scheduler.v1 import schedule_service_pb2_grpc as schedules_grpc
from guildmesh_client.event_keys import EventKeys, KeyNotGiven, WrongKey, open_event
from guildmesh_client.worker import Task

from services.common.context import Principal
from services.common.grpcx.status import error_info
from services.scheduler.bootstrap import open_service
from services.scheduler.domain.event_key_errors import EventKeySealed, EventKeysNotSet
from services.scheduler.relay.replay import Target, replay_events
from services.scheduler.relay.replay_progress import ReplayRange
from services.scheduler.relay.settings import ReplaySettings
from tests.integration.scheduler.conftest import MakeSettings, unique
from tests.integration.scheduler.event_content.conftest import (
    ENCRYPTED,
    OMIT,
    World,
    a_master_key,
    event_of,
    everything_of,
    until,
    write_everywhere,
)
from tests.integration.scheduler.test_relay import (
    replay_of,
    until_outbox_empty,
)
from tests.integration.scheduler.test_replay_events import by_task, everything
from tests.support.service import metadata, running


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


async def test_only_identity_destroys_keys(world: World) -> None:
    for other in ("gateway", "agent"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await world.erase("ada", world.scheduler.server.channel(other))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


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


async def test_without_a_master_key_nothing_can_be_encrypted(
    own_settings: MakeSettings,
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
