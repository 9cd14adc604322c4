"""Watching all tasks of a tenant: on any replica, from any place on, whoever dies or reads slowly."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh_client.tasks import TaskClient
from guildmesh_client.worker import Task, Worker

from services.common.context import Principal
from services.scheduler.bootstrap import open_service
from services.scheduler.domain.positions import Positions, encode_positions
from services.scheduler.usecases import event_tail
from services.scheduler.usecases.topic_pages import TopicPages
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.test_kills import ADA, Mesh, mesh  # noqa: F401 - the fixture
from tests.integration.scheduler.test_relay import (  # noqa: F401 - fixtures
    MakeRelay,
    own_settings,
    relay_settings,
    relaying,
    wait_ready,
)
from tests.support.service import metadata, running


class Stream:
    """One WatchTasks call."""

    def __init__(self, scheduler: Scheduler, by: Principal | None = None, **request: Any) -> None:
        with_metadata = metadata(by or scheduler.ada)
        self.call = scheduler.stub.WatchTasks(pb.WatchTasksRequest(**request), metadata=with_metadata)
        self.token = ""
        self.events: list[TaskEvent] = []

    async def next(self) -> pb.WatchTasksResponse:
        async with asyncio.timeout(20):
            response = await self.call.read()
        assert isinstance(response, pb.WatchTasksResponse), "the stream ended"
        assert response.resume_token
        self.token = response.resume_token
        if response.HasField("event"):
            self.events.append(response.event)
        return response

    async def open(self) -> Stream:
        """Waits until it is there."""
        assert not (await self.next()).HasField("event")
        return self

    async def until(self, done: Callable[[list[TaskEvent]], bool]) -> list[TaskEvent]:
        while not done(self.events):
            await self.next()
        return self.events


def numbers(events: list[TaskEvent]) -> dict[str, list[int]]:
    """The numbers of each task's events; fails where one is missing, out of order or there twice."""
    found: dict[str, list[int]] = {}
    for event in events:
        found.setdefault(event.task_id, []).append(event.number)
    for line in found.values():
        assert line == list(range(1, len(line) + 1)), found
    return found


def ended(number: int) -> Callable[[list[TaskEvent]], bool]:
    return lambda events: sum(event.HasField("completed") for event in events) >= number


@dataclass
class Replicas:
    """Two schedulers on one database, and the relay."""

    one: Scheduler
    two: Scheduler

    @asynccontextmanager
    async def echoing(self, size: int = 0) -> AsyncIterator[None]:
        """A worker at the first that completes all of its tasks."""
        worker = Worker(channel=self.one.channel, metadata=metadata(self.one.ada), concurrency=50)

        @worker.task(self.one.kind)
        async def echo(task: Task) -> Any:
            return "x" * size

        working = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            worker.stop()
            await working


@pytest.fixture
async def replicas(
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    scheduler_tls: Path,
) -> AsyncIterator[Replicas]:
    relay = relay_settings()
    # A worker shares its process with both: with 200 large results to tell, it is seconds behind on a slow machine.
    settings = own_settings(
        kafka_bootstrap_servers=relay.kafka_bootstrap_servers, events_topic=relay.events_topic, lease_seconds=15.0
    )
    async with (
        running(open_service, settings, scheduler_tls) as first,
        running(open_service, settings, scheduler_tls) as second,
        relaying(relay) as process,
    ):
        await wait_ready(process)
        one = Scheduler(first)
        yield Replicas(one, Scheduler(second, one.ada))


async def test_a_watcher_on_any_replica_sees_every_event_of_its_tenant_in_order(replicas: Replicas) -> None:
    other = Principal("eve", unique("globex"), frozenset({"user"}))
    stream, foreign = await Stream(replicas.two).open(), await Stream(replicas.two, by=other).open()
    async with replicas.echoing():
        made = [await replicas.one.create(str(number)) for number in range(30)]
        await replicas.one.create(by=other)
        events = await stream.until(ended(30))
    assert numbers(events) == {task.task_id: [1, 2, 3] for task in made}
    assert {event.tenant_id for event in events} == {replicas.one.ada.tenant_id}
    assert [event.WhichOneof("change") for event in await foreign.until(bool)] == ["created"]


async def test_a_watcher_goes_on_elsewhere_where_it_was(replicas: Replicas) -> None:
    stream = await Stream(replicas.one).open()
    async with replicas.echoing():
        made = [await replicas.one.create(str(number)) for number in range(20)]
        before = list(await stream.until(lambda events: len(events) >= 17))
        token = stream.token
        stream.call.cancel()
        made += [await replicas.one.create(str(number)) for number in range(20)]
        after = await (await Stream(replicas.two, resume_token=token).open()).until(ended(40 - ended_in(before)))
    assert numbers(before + after) == {task.task_id: [1, 2, 3] for task in made}


def ended_in(events: list[TaskEvent]) -> int:
    return sum(event.HasField("completed") for event in events)


async def test_a_filter_chooses_by_the_event_and_by_its_task(replicas: Replicas) -> None:
    kind, red = replicas.one.kind, "labels.team = red"
    streams = {
        "completed": await Stream(replicas.one, filter=f"type = completed AND kind = {kind}").open(),
        "running": await Stream(replicas.one, filter="state = RUNNING AND queue = default AND attempt < 2").open(),
        "red": await Stream(replicas.two, filter=f"{red} AND type != started").open(),
        "none": await Stream(replicas.two, filter=f"{red} AND created_by = nobody").open(),
    }
    async with replicas.echoing():
        await replicas.one.create(labels={"team": "blue"})
        chosen = await replicas.one.create(labels={"team": "red"})
        for name, number in (("completed", 2), ("running", 2), ("red", 2)):
            await streams[name].until(lambda events, number=number: len(events) >= number)  # type: ignore[misc]
    changes = {name: [event.WhichOneof("change") for event in stream.events] for name, stream in streams.items()}
    assert changes == {
        "completed": ["completed", "completed"],
        "running": ["started", "started"],
        "red": ["created", "completed"],
        "none": [],
    }
    assert {event.task_id for event in streams["red"].events} == {chosen.task_id}
    # Where nothing comes of it, the place goes on nevertheless.
    token = streams["none"].token
    await streams["none"].next()
    assert streams["none"].token != token


async def test_what_was_published_from_a_moment_on_can_be_watched(replicas: Replicas) -> None:
    async with replicas.echoing():
        first = await Stream(replicas.one).open()
        early = await replicas.one.create("early")
        await first.until(ended(1))
        moment = Timestamp()
        moment.GetCurrentTime()
        late = await replicas.one.create("late")
        events = await (await Stream(replicas.two, start_time=moment).open()).until(ended(1))
    assert numbers(events) == {late.task_id: [1, 2, 3]}
    everything = Timestamp(seconds=moment.seconds - 3600)
    events = await (await Stream(replicas.two, start_time=everything).open()).until(ended(2))
    assert numbers(events) == {early.task_id: [1, 2, 3], late.task_id: [1, 2, 3]}


async def test_a_slow_watcher_slows_nobody_and_misses_nothing(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = 0
    read = TopicPages.read

    async def counted(self: TopicPages, positions: Positions) -> Any:
        nonlocal pages
        pages += 1
        return await read(self, positions)

    monkeypatch.setattr(TopicPages, "read", counted)
    slow, quick = await Stream(replicas.one).open(), await Stream(replicas.one).open()
    # As large as results on the topic are.
    size, tasks = 60_000, 200
    async with replicas.echoing(size):
        made = await asyncio.gather(*(replicas.one.create(str(number)) for number in range(tasks)))
        # More than anybody holds for the slow one: the channel 256 KiB, the connection some megabytes.
        await quick.until(ended(tasks))
        assert len(slow.events) == 0
        await slow.until(ended(tasks))
        # It was behind what is held, and read the topic by itself.
        assert pages > 0
    for stream in (slow, quick):
        assert numbers(stream.events) == {task.task_id: [1, 2, 3] for task in made}


async def test_many_watchers_share_what_is_read(replicas: Replicas) -> None:
    streams = await asyncio.gather(*(Stream(replicas.two, filter=f"attempt < {number % 5 + 5}").open() for number in range(300)))
    task = await replicas.one.create()
    for stream in streams:
        assert [event.task_id for event in await stream.until(bool)] == [task.task_id]
        stream.call.cancel()


@pytest.mark.parametrize(
    ("request_fields", "reason"),
    [
        ({"filter": "colour = red"}, "the fields are type, state, queue"),
        ({"filter": "type = gone"}, "the types are cancelled, child_created, child_ended, completed, created"),
        ({"resume_token": "what"}, "resume token is not valid"),
        ({"resume_token": encode_positions([1 << 40] * 16)}, "no longer kept"),
        ({"resume_token": encode_positions([0] * 16), "start_time": Timestamp()}, "must be unset with resume_token"),
    ],
)
async def test_a_watcher_that_cannot_begin_is_told_what_to_do(
    replicas: Replicas, request_fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=reason):
        await Stream(replicas.one, **request_fields).open()


async def test_a_watcher_is_told_to_come_back_while_kafka_is_away(
    scheduler_settings: MakeSettings, scheduler_tls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_tail, "_READY_SECONDS", 0.5)
    async with running(open_service, scheduler_settings(kafka_bootstrap_servers="127.0.0.1:1"), scheduler_tls) as server:
        with pytest.raises(grpc.aio.AioRpcError, match="Kafka cluster does not answer") as away:
            await Stream(Scheduler(server)).open()
    assert away.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stream_ends_with_its_token(replicas: Replicas) -> None:
    with_metadata = metadata(replicas.one.ada, expires_in=1.5)
    call = replicas.one.stub.WatchTasks(pb.WatchTasksRequest(), metadata=with_metadata)
    with pytest.raises(grpc.aio.AioRpcError, match="open another stream") as over:
        async with asyncio.timeout(10):
            async for _ in call:
                pass
    assert over.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_server_sent_events_name_the_place_of_the_stream(replicas: Replicas) -> None:
    call = replicas.one.stub.StreamEvents(pb.StreamEventsRequest(filter="type = created"), metadata=metadata(replicas.one.ada))
    first = (await call.read()).data.decode()
    assert first.startswith(": keep-alive\nid: ")
    task = await replicas.one.create()
    while (data := (await call.read()).data.decode()).startswith(":"):
        pass
    lines = dict(line.split(": ", 1) for line in data.strip().split("\n"))
    assert lines["event"] == "guildmesh.task.created.v1"
    assert task.task_id in lines["data"]
    call.cancel()
    again = replicas.two.stub.StreamEvents(
        pb.StreamEventsRequest(last_event_id=lines["id"], filter="type = created"), metadata=metadata(replicas.one.ada)
    )
    other = await replicas.one.create()
    while (data := (await again.read()).data.decode()).startswith(":"):
        pass
    assert other.task_id in data
    again.cancel()


async def test_killing_scheduler_and_relay_hides_no_event_from_a_watcher(mesh: Mesh) -> None:  # noqa: F811 - the fixture
    worker = Worker(channel=mesh.channel, metadata=metadata(ADA), concurrency=20)

    @worker.task(mesh.kind)
    async def echo(task: Task) -> Any:
        return "done"

    repeats, kills, restarts = 0, 0, 0
    seen: dict[str, int] = {}
    over: set[str] = set()
    # It begins with what is published from now on, so it has to be there before anything is.
    token = await place_now(mesh)
    working = asyncio.create_task(worker.run())
    creating = asyncio.create_task(create_many(mesh, 120))
    try:
        async with asyncio.timeout(50):
            while not creating.done() or len(over) < 120:
                restarts += 1
                try:
                    async for response in mesh.stub.WatchTasks(
                        pb.WatchTasksRequest(resume_token=token, filter=f"kind = {mesh.kind}"), metadata=metadata(ADA)
                    ):
                        token = response.resume_token
                        if not response.HasField("event"):
                            continue
                        event = response.event
                        if event.number <= seen.get(event.task_id, 0):
                            # A stretch that was published again after a fault.
                            repeats += 1
                            continue
                        assert event.number == seen.get(event.task_id, 0) + 1
                        seen[event.task_id] = event.number
                        if event.HasField("completed"):
                            over.add(event.task_id)
                            if len(over) >= 120:
                                break
                        if len(over) == 20 * (kills + 1) and kills < 4:
                            kills += 1
                            victim = mesh.scheduler if kills % 2 else mesh.relay
                            await victim.kill()
                            await victim.start()
                except grpc.aio.AioRpcError as error:
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                        raise
                    await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"{len(over)} of 120 tasks are seen to end, after {kills} kills; last numbers: {Counter(seen.values())}")
    finally:
        worker.stop()
        await asyncio.gather(working, creating, return_exceptions=True)
    assert set(await creating) <= over, Counter(seen.values())
    assert kills == 4


async def place_now(mesh: Mesh) -> str:  # noqa: F811 - no fixture here
    """The place of a stream that begins now, once the scheduler answers and its topic is there."""
    async with asyncio.timeout(30):
        while True:
            call = mesh.stub.WatchTasks(pb.WatchTasksRequest(), metadata=metadata(ADA), wait_for_ready=True)
            try:
                return str((await call.read()).resume_token)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)
            finally:
                call.cancel()


async def create_many(mesh: Mesh, number: int) -> list[str]:  # noqa: F811 - no fixture here
    made = []
    for each in range(number):
        made.append(await mesh.create(str(each)))
        await asyncio.sleep(0.02)
    return made


async def test_the_client_library_watches_one_task_and_all_of_them(replicas: Replicas) -> None:
    client = TaskClient(replicas.one.channel, metadata(replicas.one.ada))
    async with replicas.echoing(), asyncio.timeout(20):
        first = await client.create("one", kind=replicas.one.kind)
        assert [event.number async for event in client.watch(first)] == [1, 2, 3]
        assert [event.number async for event in client.watch(first, after=2)] == [3]
        moment = datetime.now(UTC) - timedelta(hours=1)
        async with aclosing(client.watch_tasks("type = completed", start_time=moment)) as stream:  # type: ignore[type-var]
            seen = await anext(stream)
        assert seen.event.task_id == first
        second = await client.create("two", kind=replicas.one.kind)
        async with aclosing(client.watch_tasks(resume_token=seen.resume_token)) as stream:  # type: ignore[type-var]
            assert [(await anext(stream)).event.task_id for _ in range(3)] == [second] * 3
    with pytest.raises(grpc.aio.AioRpcError, match="No task"):
        await anext(client.watch("01990000-0000-7000-8000-000000000000"))
    with pytest.raises(grpc.aio.AioRpcError, match="colour"):
        await anext(client.watch_tasks("colour = red"))
