"""One lane's transactional producer: whoever opens the lane next fences it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaProducer

from services.common.failpoints import fail_point, kafka_sockets
from services.scheduler.relay.headers import headers_on_the_wire
from services.scheduler.relay.record_batch import NO_HEADERS, RecordBatch
from services.scheduler.relay.settings import RelaySettings
from services.scheduler.storage.outbox_codec import OutboxRecord

MOST_REQUEST_BYTES = 16 << 20
"""bytes of a record that the topics take: a result of 1 MiB of JSON can be several times that as protobuf."""
_BATCH_BYTES = 900_000
_REQUEST_TIMEOUT_MS = 10_000
_STOP_SECONDS = 5.0


class Publisher:
    """Publishes batches of one lane; a shard is one partition of each topic."""

    def __init__(self, producer: AIOKafkaProducer, events_topic: str, state_topic: str) -> None:
        self._producer = producer
        self._events_topic = events_topic
        self._state_topic = state_topic

    async def publish(self, records: Sequence[OutboxRecord]) -> None:
        """Publishes the events, each shard's in order, and the newest state of each task, in one transaction.

        Raises:
            KafkaError: it did not happen, or it is not known whether it did; open the lane again and read again.
        """
        shards: dict[int, list[OutboxRecord]] = {}
        for record in records:
            shards.setdefault(record.shard, []).append(record)
        await fail_point("relay.publish.before_begin", kafka_sockets(self._producer))
        await self._producer.begin_transaction()
        sent = []
        for shard, mine in shards.items():
            sent += await self._send(self._events_topic, shard, event_batches(mine))
            sent += await self._send(self._state_topic, shard, state_batches(mine))
        await fail_point("relay.publish.after_send", kafka_sockets(self._producer))
        # The commit would not say that a batch was given up.
        await asyncio.gather(*sent)
        await fail_point("relay.publish.before_commit", kafka_sockets(self._producer))
        await self._producer.commit_transaction()
        await fail_point("relay.publish.after_commit")

    async def _send(self, topic: str, shard: int, batches: Iterable[RecordBatch]) -> list[asyncio.Future[object]]:
        """Batches packed by hand: one future a batch instead of one a record, and the order is ours."""
        return [await self._producer.send_batch(batch, topic, partition=shard) for batch in batches]


def event_batches(records: Iterable[OutboxRecord]) -> Iterator[RecordBatch]:
    """The events of a shard, in order."""
    return _packed((key, value, headers_on_the_wire(key, value, trace)) for _, key, trace, value, _ in records if value)


def state_batches(records: Iterable[OutboxRecord]) -> Iterator[RecordBatch]:
    """The newest state of each task of a shard, and a key without a value for one that is gone: compaction then forgets it."""
    # An event that another of the same commit followed has no state of its own, and is no tombstone either.
    newest = {record.key: record.snapshot for record in records if record.snapshot or not record.value}
    return _packed((key, snapshot or None, NO_HEADERS) for key, snapshot in newest.items())


def _packed(records: Iterable[tuple[bytes, bytes | None, bytes]]) -> Iterator[RecordBatch]:
    batch = RecordBatch()
    for key, value, headers in records:
        if batch.record_count() and batch.size() + len(headers) + len(value or b"") > _BATCH_BYTES:
            yield batch
            batch = RecordBatch()
        batch.add(key, value, headers)
    if batch.record_count():
        yield batch


@asynccontextmanager
async def open_publisher(settings: RelaySettings, lane: int) -> AsyncIterator[Publisher]:
    """A lane's publisher. Opening it fences the one before, and ends what that one began."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        client_id=f"guildmesh-relay-{lane}",
        transactional_id=f"{settings.events_topic}.relay.{lane}",
        transaction_timeout_ms=int(settings.transaction_timeout_seconds * 1000),
        max_request_size=MOST_REQUEST_BYTES,
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
        retry_backoff_ms=50,
    )
    try:
        async with asyncio.timeout(2 * _REQUEST_TIMEOUT_MS / 1000):
            await fail_point("relay.lane.before_open")
            await producer.start()
            await fail_point("relay.lane.after_open", kafka_sockets(producer))
        yield Publisher(producer, settings.events_topic, settings.state_topic)
    finally:
        # A producer that cannot flush (the broker is away) is dropped; the next one ends its transaction.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_STOP_SECONDS):
                await producer.stop()
