"""Publishes events of the log once more, into a topic of their own or the public one: each as a relay did, to the last byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from services.common.db.driver import open_driver
from services.common.db.engine_role import EngineDriver
from services.common.kafka.clients import running_client
from services.common.kafka.connection import kafka_arguments
from services.common.kafka.topics import WrongTopicShape, create_topics, open_admin
from services.scheduler.adapters.topics import MOST_RECORD_BYTES, events_topic
from services.scheduler.domain.shards import SHARDS, shard_of
from services.scheduler.relay.headers import moment_of
from services.scheduler.relay.published_value import PublishedValues
from services.scheduler.relay.publisher import packed
from services.scheduler.relay.records import Packed, event_record
from services.scheduler.relay.replay_progress import Progress, ReplayRange, keep_progress, read_progress
from services.scheduler.relay.settings import RelaySettings, ReplaySettings
from services.scheduler.storage.event_history import EventHistory, LoggedTask, TasksWanted
from services.scheduler.storage.outbox_codec import trace_of

_MOST_RECORDS = 5000
_MOST_BYTES = 4 << 20
_REQUEST_TIMEOUT_MS = 30_000
_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_ENOUGH_RECORDS = 1000
_MOST_PAGES = 100
_WAIT_SECONDS = 60.0
_LOOK_SECONDS = 0.1


class ReplayRefused(Exception):
    """The replay would not be what was asked for; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to."""

    topic: str
    public: bool = False
    """it is one that relays publish to."""
    restart: bool = False
    """begin anew, whatever came of an earlier replay into it."""


async def replay_events(
    settings: ReplaySettings, wanted: ReplayRange, target: Target, tell: Callable[[Progress], None]
) -> Progress:
    """Publishes what is wanted, or what an earlier replay of the same into the same topic has left; tells after each transaction.

    Raises:
        ReplayRefused: see there.
        DomainError: the database does not answer.
        KafkaError: Kafka does not answer, or refuses; call again to go on.
    """
    async with open_driver(settings, "scheduler") as driver:
        engine = EngineDriver(driver)
        async with _producer(settings, target.topic) as producer, open_admin(settings) as admin:
            # Once the producer is there, nothing of an earlier replay is under way.
            progress = await _start(settings, admin, engine, wanted, target)
            if progress.done:
                return progress
            history, values = EventHistory(engine, _tasks_of(progress.range)), PublishedValues(engine, settings)
            return await _Replay(settings, producer, history, values, target, tell).run(progress)


async def _start(
    settings: RelaySettings, admin: AIOKafkaAdminClient, engine: EngineDriver, wanted: ReplayRange, target: Target
) -> Progress:
    """Where to begin; makes the topic."""
    try:
        earlier = await read_progress(admin, target.topic)
    except ValueError as error:
        raise ReplayRefused(
            f"The progress of a replay into {target.topic} cannot be read: {error}; choose another topic."
        ) from error
    if not target.public:
        try:
            await create_topics(admin, [events_topic(settings, target.topic)])
        except WrongTopicShape as error:
            raise ReplayRefused(
                f"{error} A replay keeps each record in the partition that it had, so choose a topic that does not exist yet."
            ) from error
    if earlier is not None and not target.restart:
        if not earlier.done and wanted.same_as(earlier.range):
            return earlier
        if not earlier.done:
            raise ReplayRefused(
                f"Another replay into {target.topic} ended after {earlier.records} records before it was done ({earlier.range});"
                " go on with it by the same options, or choose another topic, or --restart to give it up."
            )
        if not target.public:
            if wanted.same_as(earlier.range):
                return earlier
            raise ReplayRefused(
                f"A replay of other events into {target.topic} was done, of {earlier.records} records ({earlier.range}); choose"
                " another topic, or --restart to publish behind them."
            )
    if not target.public and not target.restart and earlier is None and await _holds_records(settings, target.topic):
        raise ReplayRefused(
            f"The topic {target.topic} has records already that are not of this replay; choose a topic that does not exist yet,"
            " or --restart to publish behind them."
        )
    if not wanted.until:
        wanted = replace(wanted, until=(await EventHistory(engine, TasksWanted()).now()).isoformat())
    return Progress(wanted)


async def _holds_records(settings: RelaySettings, topic: str) -> bool:
    consumer = AIOKafkaConsumer(**kafka_arguments(settings), client_id="guildmesh-replay", enable_auto_commit=False)
    async with running_client(consumer, start_seconds=_START_SECONDS, stop_seconds=_STOP_SECONDS):
        ends = await consumer.end_offsets([TopicPartition(topic, partition) for partition in range(SHARDS)])
    return any(ends.values())


def _tasks_of(wanted: ReplayRange) -> TasksWanted:
    return TasksWanted(
        tenant_id=wanted.tenant_id or None,
        queue=wanted.queue or None,
        task_id=wanted.task_id or None,
        ended_after=_moment(wanted.since),
        created_before=_moment(wanted.until),
    )


def _moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


class _Replay:
    """One run of a replay: pages of the log, published in transactions of a few megabytes, each with the progress it makes."""

    def __init__(
        self,
        settings: RelaySettings,
        producer: AIOKafkaProducer,
        history: EventHistory,
        values: PublishedValues,
        target: Target,
        tell: Callable[[Progress], None],
    ) -> None:
        self._producer = producer
        self._history = history
        self._values = values
        self._target = target
        self._tell = tell
        self._json = settings.value_format == "json"
        self._shards: dict[int, list[Packed]] = {}
        self._records = 0
        self._bytes = 0

    async def run(self, progress: Progress) -> Progress:
        """Goes on to the end."""
        since, until = _moment(progress.range.since), _moment(progress.range.until)
        wanted = _Wanted(since, until, progress.range.first, progress.range.last)
        after: UUID | None = UUID(progress.after)
        pages = 0
        while after is not None:
            tasks, next_ = await self._history.page(after)
            if tasks:
                await self._values.read()
            if self._target.public and tasks:
                await self._until_published()
            for task in tasks:
                begun = progress.number if task.task_id == progress.task_id else 0
                async with aclosing(self._events(task, begun)) as events:
                    async for number, value in events:
                        if wanted.has(number, value):
                            await self._add(task, value)
                        if self._records >= _MOST_RECORDS or self._bytes >= _MOST_BYTES:
                            here = replace(progress, after=str(after), task_id=task.task_id, number=number)
                            progress = await self._publish(here)
                after = UUID(task.task_id)
            pages += 1
            if next_ is not None and (self._records >= _ENOUGH_RECORDS or pages % _MOST_PAGES == 0):
                progress = await self._publish(replace(progress, after=str(next_), task_id="", number=0))
            after = next_
        return await self._publish(replace(progress, done=True))

    async def _events(self, task: LoggedTask, begun: int) -> AsyncGenerator[tuple[int, bytes]]:
        """The events of a task behind a number, with theirs."""
        for number, value in enumerate(task.events[begun:], begun + 1):
            yield number, value
        number = max(begun, len(task.events))
        while number < task.newest:
            more = await self._history.more(task, number)
            if not more:
                # Its time was over meanwhile, and it is no longer kept.
                return
            for number, value in more:
                yield number, value

    async def _add(self, task: LoggedTask, value: bytes) -> None:
        value, key_id = await self._values.of(task, value)
        record = event_record(task.task_id.encode(), trace_of(task.traceparent, key_id), value, json=self._json)
        self._shards.setdefault(shard_of(task.task_id), []).append(record)
        self._records += 1
        self._bytes += len(value)

    async def _publish(self, progress: Progress) -> Progress:
        """Publishes what was gathered, and keeps how far it is with it; gives that."""
        progress = replace(progress, records=progress.records + self._records)
        await self._producer.begin_transaction()
        sent = [
            await self._producer.send_batch(batch, self._target.topic, partition=shard)
            for shard, records in self._shards.items()
            for batch in packed(records)
        ]
        await asyncio.gather(*sent)
        await keep_progress(self._producer, self._target.topic, progress)
        await self._producer.commit_transaction()
        self._shards.clear()
        self._records = self._bytes = 0
        self._tell(progress)
        return progress

    async def _until_published(self) -> None:
        """Waits until a relay has published all that was read, so that nothing comes again before it came first."""
        waiting = await self._history.waiting()
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                while True:
                    if not await self._history.still_waiting(waiting):
                        return
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError as error:
            raise ReplayRefused(
                f"Events have waited for {_WAIT_SECONDS:g} s for a relay to publish them for the first time; see that one runs,"
                " and start the replay again: it goes on where it is."
            ) from error


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which events of a task are replayed."""

    since: datetime | None
    until: datetime | None
    first: int
    last: int

    def has(self, number: int, value: bytes) -> bool:
        """Whether this one is."""
        if number < self.first or (self.last and number > self.last):
            return False
        moment = moment_of(value)
        return (self.since is None or moment >= self.since) and (self.until is None or moment < self.until)


@asynccontextmanager
async def _producer(settings: RelaySettings, topic: str) -> AsyncIterator[AIOKafkaProducer]:
    """The one producer of replays into a topic: opening it ends what the one before began, and fences it."""
    producer = AIOKafkaProducer(
        **kafka_arguments(settings),
        client_id="guildmesh-replay",
        transactional_id=f"{topic}.replay",
        transaction_timeout_ms=int(settings.transaction_timeout_seconds * 1000),
        max_request_size=MOST_RECORD_BYTES,
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
        retry_backoff_ms=50,
    )
    async with running_client(producer, start_seconds=_START_SECONDS, stop_seconds=_STOP_SECONDS):
        yield producer
