"""Events are published again as a relay published them, to the last byte, whoever is killed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import NewTopic
from guildmesh.events.v1.task_event_pb2 import TaskEvent, TaskSnapshot
from guildmesh_client.worker import Task, TaskFailed, Worker

from services.common.kafka.topics import create_topics, open_admin
from services.scheduler.adapters.topics import events_topic
from services.scheduler.bootstrap import open_service
from services.scheduler.relay import replay as module
from services.scheduler.relay.replay import ReplayRefused, Target, replay_events
from services.scheduler.relay.replay_progress import Progress, ReplayRange
from services.scheduler.relay.settings import ReplaySettings
from services.scheduler.storage import event_history
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, unique
from tests.integration.scheduler.test_relay import (  # noqa: F401 - fixtures
    MakeRelay,
    header,
    own_settings,
    reading,
    relay_settings,
    relaying,
    replay_of,
    until_outbox_empty,
    wait_ready,
)
from tests.support.service import metadata, running

TASKS = 60
KILLS = 2
# So small that a replay of these tasks is many transactions and pages, and some tasks are cut in two.
SMALL = {"_MOST_RECORDS": 30, "_ENOUGH_RECORDS": 20}


@dataclass
class Past:
    """What happened: the settings of the relay that published it, and all of its records by task."""

    settings: ReplaySettings
    scheduler: Scheduler
    records: dict[str, list[Any]]

    @property
    def count(self) -> int:
        return sum(map(len, self.records.values()))

    def range(self, **changes: Any) -> ReplayRange:
        return ReplayRange(**({"since": "2020-01-01T00:00:00+00:00"} | changes))


def by_task(records: list[Any]) -> dict[str, list[Any]]:
    """What a reader sees of each task, in order: place, key, value and headers."""
    found: dict[str, list[Any]] = {}
    for record in records:
        seen = (record.partition, record.key, record.value, tuple(record.headers))
        found.setdefault(record.key.decode(), []).append(seen)
    return found


async def everything(settings: ReplaySettings, topic: str, count: int) -> list[Any]:
    """All records of a topic, of which there are so many; fails when there are more."""
    async with reading(settings, topic) as reader:
        records = list(await reader.until(lambda found: len(found) >= count))
        for batch in (await reader.consumer.getmany(timeout_ms=300)).values():
            records += batch
    return records


@pytest.fixture
async def past(
    own_settings: MakeSettings,  # noqa: F811 - the fixture
    relay_settings: MakeRelay,  # noqa: F811 - the fixture
    scheduler_tls: Path,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Past]:
    """Tasks that completed, failed, were retried, put out much, and one that goes on; of two tenants."""
    settings = relay_settings(**getattr(request, "param", {}))
    async with running(open_service, own_settings(), scheduler_tls) as server, relaying(settings) as relay:
        await wait_ready(relay)
        scheduler, other = Scheduler(server), Scheduler(server)
        other.kind = scheduler.kind
        workers = [Worker(channel=each.channel, metadata=metadata(each.ada), concurrency=50) for each in (scheduler, other)]
        for worker in workers:

            @worker.task(scheduler.kind)
            async def work(task: Task) -> Any:
                number = int(task.description)
                if number % 10 == 3:
                    raise TaskFailed("BROKEN", "it broke")
                if number % 10 == 5 and task.attempt == 1:
                    raise TaskFailed("ONCE", retryable=True, retry_delay=0.01)
                if number % 20 == 7:
                    for line in range(4):
                        await task.output(f"{line}" * 2000)
                return {"number": number}

        working = [asyncio.create_task(worker.run()) for worker in workers]
        labels = {f"label-{number}": "x" for number in range(5)}
        await asyncio.gather(
            *(
                each.create(str(number), labels=labels)
                for each, numbers in ((scheduler, range(TASKS)), (other, range(20)))
                for number in numbers
            ),
            scheduler.create("nobody takes it", kind=unique("waits")),
        )
        async with reading(settings, settings.events_topic) as reader:
            await reader.until(lambda found: sum(ended(record) for record in found) >= TASKS + 20)
            for worker in workers:
                worker.stop()
            await asyncio.gather(*working)
            await until_outbox_empty(own_settings())
            records = list(reader.records)
        yield Past(replay_of(settings), scheduler, by_task(records))


def ended(record: Any) -> bool:
    return header(record, "ce_type").split(".")[-2] in ("completed", "failed")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(event_history, "_PAGE", 15)
    monkeypatch.setattr(event_history, "_FEW", 5)


def silent(_: Progress) -> None: ...


async def test_a_replay_is_what_the_relay_published_to_the_last_byte_though_it_is_killed(past: Past, tmp_path: Path) -> None:
    assert max(map(len, past.records.values())) > 5
    topic = unique("replay")
    chance = random.Random(7)
    kills = 0
    while True:
        process = await start_replay(past.settings, topic, tmp_path)
        assert process.stdout is not None
        # Killed at any moment behind some transactions, or before the first of this process.
        for _ in range(chance.randint(0, 3) if kills < KILLS else 10_000):
            if not await process.stdout.readline():
                break
        if kills < KILLS:
            await asyncio.sleep(chance.uniform(0, 0.02))
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            kills += 1
            continue
        assert await process.wait() == 0, (tmp_path / "replay.log").read_text()
        break
    assert by_task(await everything(past.settings, topic, past.count)) == past.records


async def start_replay(settings: ReplaySettings, topic: str, folder: Path) -> asyncio.subprocess.Process:
    """The command, in transactions as small as those of these tests, so that there is something to kill."""
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "GUILDMESH_TASK_EVENTS_TOPIC": settings.events_topic,
        "GUILDMESH_STATE_DIR": str(folder / "state"),
        "KAFKA_VALUE_FORMAT": settings.value_format,
    }
    lines = [f"module.{name} = {value}" for name, value in SMALL.items()]
    program = "\n".join(
        [
            "import sys",
            "from guildmesh_client.cli import main",
            "from services.scheduler.relay import replay as module",
            "from services.scheduler.storage import event_history",
            "event_history._PAGE, event_history._FEW = 15, 5",
            *lines,
            f"sys.argv = ['guildmesh', 'events', 'replay', '--from', '1h', '--topic', {topic!r}]",
            "main()",
        ]
    )
    with (folder / "replay.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, env=environment, stdout=asyncio.subprocess.PIPE, stderr=log
        )


async def test_a_replay_goes_on_where_it_broke_off_and_is_done_once(past: Past, small: None) -> None:
    topic = unique("replay")
    wanted = past.range()

    class Broken(Exception): ...

    def breaks(progress: Progress) -> None:
        if progress.records > 40:
            raise Broken

    with pytest.raises(Broken):
        await replay_events(past.settings, wanted, Target(topic), breaks)
    with pytest.raises(ReplayRefused, match="before it was done"):
        await replay_events(past.settings, past.range(first=2), Target(topic), silent)
    told: list[Progress] = []
    done = await replay_events(past.settings, wanted, Target(topic), told.append)
    assert told[0].records > 40
    assert done.records == past.count
    again = await replay_events(past.settings, wanted, Target(topic), silent)
    assert again == done
    with pytest.raises(ReplayRefused, match="A replay of other events"):
        await replay_events(past.settings, past.range(first=2), Target(topic), silent)
    assert by_task(await everything(past.settings, topic, past.count)) == past.records
    await other_topics_are_refused(past)


async def other_topics_are_refused(past: Past) -> None:
    """Those of another shape, and those with other records."""
    other, used = unique("other"), unique("used")
    async with open_admin(past.settings) as admin:
        await create_topics(admin, [NewTopic(other, 3, 1), events_topic(past.settings, used)])
    with pytest.raises(ReplayRefused, match="3 partitions and needs 16"):
        await replay_events(past.settings, past.range(), Target(other), silent)
    for name in past.settings.topic_names.all[:1]:
        with pytest.raises(ReplayRefused, match="has records already"):
            await replay_events(past.settings, past.range(), Target(name), silent)
    # An empty one that somebody made with other limits is as good as a new one.
    assert (await replay_events(past.settings, past.range(), Target(used), silent)).records == past.count


@pytest.mark.parametrize("past", [{"value_format": "json"}], indirect=True)
async def test_json_is_replayed_as_json(past: Past) -> None:
    topic = unique("replay")
    await replay_events(past.settings, past.range(value_format="json"), Target(topic), silent)
    assert by_task(await everything(past.settings, topic, past.count)) == past.records
    assert all(value.startswith(b"{") for line in past.records.values() for _, _, value, _ in line)


async def test_what_is_asked_for_is_replayed_and_nothing_else(past: Past) -> None:
    async def replayed(**changes: Any) -> dict[str, list[Any]]:
        topic = unique("replay")
        done = await replay_events(past.settings, past.range(**changes), Target(topic), silent)
        return by_task(await everything(past.settings, topic, done.records)) if done.records else {}

    events = {task_id: [TaskEvent.FromString(value) for _, _, value, _ in line] for task_id, line in past.records.items()}
    longest = max(events, key=lambda task_id: len(events[task_id]))
    assert await replayed(task_id=longest) == {longest: past.records[longest]}
    assert await replayed(task_id=longest, first=2, last=4) == {longest: past.records[longest][1:4]}
    tenant = past.scheduler.ada.tenant_id
    assert await replayed(tenant_id=tenant) == {
        task_id: past.records[task_id] for task_id, line in events.items() if line[0].tenant_id == tenant
    }
    assert await replayed(queue="no-queue") == {}
    times = sorted(event.event_time.ToNanoseconds() for line in events.values() for event in line)
    since, until = (datetime.fromtimestamp(times[len(times) * part // 3] // 1000 / 1e6).astimezone() for part in (1, 2))
    within = await replayed(since=since.isoformat(), until=until.isoformat())
    assert within == {
        task_id: found
        for task_id, line in events.items()
        if (
            found := [
                record
                for record, event in zip(past.records[task_id], line, strict=True)
                if since <= event.event_time.ToDatetime(since.tzinfo) < until
            ]
        )
    }


async def test_a_new_reader_begins_at_the_beginning_and_sees_exact_repeats_of_a_replay(past: Past) -> None:
    await a_newcomer_has_everything(past)
    topic = past.settings.events_topic
    await replay_events(past.settings, past.range(), Target(topic, public=True), silent)
    await replay_events(past.settings, past.range(), Target(topic, public=True), silent)
    found = by_task(await everything(past.settings, topic, 3 * past.count))
    assert found == {task_id: line * 3 for task_id, line in past.records.items()}


async def a_newcomer_has_everything(past: Past) -> None:
    """A group that is new reads all that the topic keeps, and rebuilds the state from the compacted one."""
    consumer = AIOKafkaConsumer(
        past.settings.events_topic,
        bootstrap_servers=past.settings.kafka_bootstrap_servers,
        group_id=unique("newcomer"),
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        records: list[Any] = []
        async with asyncio.timeout(20):
            while len(records) < past.count:
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    records += batch
    finally:
        await consumer.stop()
    assert by_task(records) == past.records
    states = await everything(past.settings, past.settings.state_topic, len(past.records))
    rebuilt = {record.key.decode(): TaskSnapshot.FromString(record.value) for record in states}
    assert {task_id: state.last_event_number for task_id, state in rebuilt.items()} == {
        task_id: len(line) for task_id, line in past.records.items()
    }
