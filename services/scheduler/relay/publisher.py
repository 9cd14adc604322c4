"""One lane's transactional producer: whoever opens the lane next fences it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaProducer
from guildmesh.events.v1.task_event_pb2 import TaskEvent

from services.common.failpoints import fail_point, kafka_sockets
from services.scheduler.relay.headers import Headers, headers_of
from services.scheduler.relay.settings import RelaySettings
from services.scheduler.storage.outbox_codec import OutboxRecord

MOST_REQUEST_BYTES = 16 << 20
"""bytes of a record that the topics take: a result of 1 MiB of JSON can be several times that as protobuf."""
_BATCH_BYTES = 900_000
_REQUEST_TIMEOUT_MS = 10_000
_STOP_SECONDS = 5.0

Record = tuple[bytes, bytes | None, Headers]
_NO_HEADERS: Headers = []


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
            # An event that another of the same commit followed has no state of its own.
            newest = {record.task_id: record for record in mine if record.snapshot or record.tombstone}
            # A tombstone is a key without a value: compaction then forgets the key.
            states = ((record.task_id.encode(), record.snapshot or None, _NO_HEADERS) for record in newest.values())
            events = (_event_record(record) for record in mine if not record.tombstone)
            sent += await self._send(self._events_topic, shard, events)
            sent += await self._send(self._state_topic, shard, states)
        await fail_point("relay.publish.after_send", kafka_sockets(self._producer))
        # The commit would not say that a batch was given up.
        await asyncio.gather(*sent)
        await fail_point("relay.publish.before_commit", kafka_sockets(self._producer))
        await self._producer.commit_transaction()
        await fail_point("relay.publish.after_commit")

    async def _send(self, topic: str, shard: int, records: Iterable[Record]) -> list[asyncio.Future[object]]:
        """Packs records into batches by hand: one future a batch instead of one a record, and the order is ours."""
        sent = []
        batch = self._producer.create_batch()
        for key, value, headers in records:
            if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                sent.append(await self._producer.send_batch(batch, topic, partition=shard))
                batch = self._producer.create_batch()
                if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                    raise RuntimeError(f"a record of {len(value or b''):,} bytes does not fit into an empty batch")
        if batch.record_count():
            sent.append(await self._producer.send_batch(batch, topic, partition=shard))
        return sent


def _event_record(record: OutboxRecord) -> Record:
    headers = headers_of(TaskEvent.FromString(record.value), record.traceparent)
    return record.task_id.encode(), record.value, headers


@asynccontextmanager
async def open_publisher(settings: RelaySettings, lane: int) -> AsyncIterator[Publisher]:
    """A lane's publisher. Opening it fences the one before, and ends what that one began."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        client_id=f"guildmesh-relay-{lane}",
        transactional_id=f"{settings.events_topic}.relay.{lane}",
        transaction_timeout_ms=int(settings.transaction_timeout_seconds * 1000),
        max_batch_size=_BATCH_BYTES,
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
