"""The events topic of Kafka, read from a place on: what was committed there, in its order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from guildmesh.events.v1.task_event_pb2 import TaskEvent

from services.common.errors import DependencyUnavailable
from services.common.kafka.clients import running_client
from services.common.kafka.connection import kafka_arguments
from services.common.kafka.topics import WrongTopicShape, create_topics, open_admin
from services.scheduler.adapters.event_json import event_bytes
from services.scheduler.adapters.topics import topics_of
from services.scheduler.domain.errors import WatchPositionExpired
from services.scheduler.domain.event_topic_ports import Record
from services.scheduler.domain.positions import Positions, reaches
from services.scheduler.domain.published import Published
from services.scheduler.domain.shards import SHARDS
from services.scheduler.domain.task import State
from services.scheduler.domain.topic_names import ALL_TENANTS, TopicNames
from services.scheduler.topic_settings import TopicSettings

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 5.0
_STOP_SECONDS = 1.0
_PARTITION_BYTES = 64 << 10
# Offsets from the end on among which there is a record: transactions that were given up take some, too.
_NEWEST = 100
_LOOK_MS = 200
_CLUSTER = "Kafka cluster"
_STATES = {
    "started": State.RUNNING,
    "waiting": State.WAITING,
    "completed": State.COMPLETED,
    "failed": State.FAILED,
    "cancelled": State.CANCELLED,
}


class EventTopic:
    """Implements the port of this name."""

    def __init__(self, settings: TopicSettings, owner: str = ALL_TENANTS, name: str = "") -> None:
        """The events of all tenants, or with topics per tenant those of the owner; or whichever topic has this name."""
        self._settings = settings
        self._arguments = kafka_arguments(settings)
        self._owner = owner
        self.name = name or settings.topic_names.of(owner).events

    @asynccontextmanager
    async def open(self, only: Sequence[int] = range(SHARDS)) -> AsyncIterator[TopicReader]:
        """See EventTopic of the ports."""
        if self._owner:
            await self._make()
        consumer = AIOKafkaConsumer(
            **self._arguments,
            client_id="guildmesh-watch",
            isolation_level="read_committed",
            auto_offset_reset="none",
            enable_auto_commit=False,
            max_partition_fetch_bytes=_PARTITION_BYTES,
            request_timeout_ms=int(_ANSWER_SECONDS * 1000),
            retry_backoff_ms=50,
        )
        partitions = [TopicPartition(self.name, partition) for partition in only]
        consumer.assign(partitions)
        async with contextlib.AsyncExitStack() as stack:
            with _away():
                await stack.enter_async_context(
                    running_client(consumer, start_seconds=_CONNECT_SECONDS, stop_seconds=_STOP_SECONDS)
                )
            yield TopicReader(consumer, partitions)

    async def _make(self) -> None:
        """Makes the topics of a tenant that has had no event yet, so that there is something to wait at."""
        try:
            with _away():
                async with asyncio.timeout(_CONNECT_SECONDS), open_admin(self._settings) as admin:
                    await create_topics(admin, topics_of(self._settings, self._owner))
        except WrongTopicShape as error:
            raise DependencyUnavailable("topic set on Kafka") from error

    def parse(self, record: Record) -> Published:
        """See EventTopic of the ports."""
        value = event_bytes(record.value)
        event = TaskEvent.FromString(value)
        change = event.WhichOneof("change") or ""
        return Published(
            partition=record.partition,
            offset=record.offset,
            value=value,
            task_id=event.task_id,
            number=event.number,
            type=change,
            state=_state_after(event, change),
            queue=event.queue,
            kind=event.kind,
            attempt=event.attempt,
            actor=event.actor,
            parent_task_id=event.parent_task_id,
            left_out=_left_out(event, change) if event.content else 0,
            time_us=event.event_time.ToMicroseconds(),
            traceparent=record.traceparent,
        )


class EventTopics:
    """Implements the port of this name."""

    def __init__(self, settings: TopicSettings) -> None:
        self.names: TopicNames = settings.topic_names
        self._settings = settings

    def of(self, owner: str) -> EventTopic:
        """See EventTopics of the ports."""
        return EventTopic(self._settings, owner)

    def called(self, name: str) -> EventTopic:
        """See EventTopics of the ports."""
        return EventTopic(self._settings, name=name)

    async def exists(self, name: str) -> bool:
        """See EventTopics of the ports."""
        with _away():
            async with asyncio.timeout(_CONNECT_SECONDS), open_admin(self._settings) as admin:
                return name in await admin.list_topics()


class TopicReader:
    """Implements the port of this name."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self._rests = False

    async def bounds(self) -> tuple[Positions, Positions]:
        """See TopicReader of the ports."""
        with _away():
            async with asyncio.timeout(_ANSWER_SECONDS):
                begin = await self._consumer.beginning_offsets(self._partitions)
                end = await self._consumer.end_offsets(self._partitions)
        return tuple(begin[each] for each in self._partitions), tuple(end[each] for each in self._partitions)

    async def at(self, moment: datetime) -> Positions:
        """See TopicReader of the ports."""
        with _away():
            async with asyncio.timeout(_ANSWER_SECONDS):
                milliseconds = int(moment.timestamp() * 1000)
                # The ends first: what is published between the two answers is then behind the place, not before it.
                ends = await self._consumer.end_offsets(self._partitions)
                found = await self._consumer.offsets_for_times(dict.fromkeys(self._partitions, milliseconds))
        return tuple(ends[each] if found[each] is None else found[each].offset for each in self._partitions)

    async def newest(self) -> datetime | None:
        """See TopicReader of the ports."""
        begin, end = await self.bounds()
        self.seek(tuple(max(first, last - _NEWEST) for first, last in zip(begin, end, strict=True)))
        newest = None
        self._go_on()
        with _away():
            async with asyncio.timeout(_ANSWER_SECONDS):
                while not reaches(await self._positions(), end):
                    found = await self._consumer.getmany(timeout_ms=_LOOK_MS)
                    newest = max([newest or 0, *(each.timestamp for batch in found.values() for each in batch)])
        self.rest()
        return datetime.fromtimestamp(newest / 1000, UTC) if newest else None

    def seek(self, positions: Positions) -> None:
        """See TopicReader of the ports."""
        for partition, offset in zip(self._partitions, positions, strict=True):
            self._consumer.seek(partition, offset)

    def rest(self) -> None:
        """See TopicReader of the ports."""
        self._consumer.pause(*self._partitions)
        self._rests = True

    def _go_on(self) -> None:
        if self._rests:
            self._consumer.resume(*self._partitions)
            self._rests = False

    async def read(self, most: int, seconds: float) -> tuple[list[Record], Positions]:
        """See TopicReader of the ports."""
        self._go_on()
        with _away():
            found = await self._consumer.getmany(timeout_ms=int(seconds * 1000), max_records=most)
            records = [
                Record(each.partition, each.offset, _header(each, "ce_tenantid"), each.value, _header(each, "traceparent"))
                for batch in found.values()
                for each in batch
            ]
            return records, await self._positions()

    async def _positions(self) -> Positions:
        return tuple([await self._consumer.position(partition) for partition in self._partitions])


@contextlib.contextmanager
def _away() -> Iterator[None]:
    try:
        yield
    except OffsetOutOfRangeError as error:
        raise WatchPositionExpired from error
    except (KafkaError, OSError, TimeoutError) as error:
        raise DependencyUnavailable(_CLUSTER) from error


def _header(record: ConsumerRecord, wanted: str) -> str:
    return next((value.decode() for name, value in record.headers if name == wanted), "")


def _left_out(event: TaskEvent, change: str) -> int:
    """How many bytes of its texts are not in an event."""
    part = getattr(event, change)
    sizes = [int(value) for field, value in part.ListFields() if field.name.endswith("_size_bytes")]
    return max(1, sum(sizes))


def _state_after(event: TaskEvent, change: str) -> State | None:
    """The state that an event led to, None when that is the one before."""
    match change:
        case "created":
            if event.created.dependency_ids:
                return State.BLOCKED
            return State.SCHEDULED if event.created.HasField("next_start_time") else State.PENDING
        case "ready" | "retried":
            part = event.ready if change == "ready" else event.retried
            return State.SCHEDULED if part.HasField("next_start_time") else State.PENDING
    return _STATES.get(change)
