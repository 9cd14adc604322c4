"""One lane's transactional producer: whoever opens the lane next fences it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager

import structlog
from aiokafka import AIOKafkaProducer

from services.common.failpoints import fail_point, kafka_sockets
from services.common.kafka.clients import running_client
from services.common.kafka.connection import kafka_arguments
from services.scheduler.adapters.topics import MOST_RECORD_BYTES, OwnedTopics
from services.scheduler.domain.topic_names import ALL_TENANTS
from services.scheduler.relay.headers import tenant_of
from services.scheduler.relay.record_batch import RecordBatch
from services.scheduler.relay.records import Packed, dead_letter_records, event_records, state_records
from services.scheduler.relay.settings import RelaySettings
from services.scheduler.storage.outbox_codec import OutboxRecord

log = structlog.get_logger(__name__)

_BATCH_BYTES = 900_000
_REQUEST_TIMEOUT_MS = 10_000
_STOP_SECONDS = 5.0


class Publisher:
    """Publishes batches of one lane; a shard is one partition of each topic."""

    def __init__(self, producer: AIOKafkaProducer, topics: OwnedTopics, *, json: bool = False) -> None:
        self._producer = producer
        self._topics = topics
        self._json = json

    async def publish(self, records: Sequence[OutboxRecord]) -> None:
        """Publishes the events and dead letters, each shard's in order, and the newest state of each task, in one transaction.

        Raises:
            KafkaError: it did not happen, or it is not known whether it did; open the lane again and read again.
        """
        parts = self._parts(records)
        await self._topics.ensure({owner for owner, _ in parts})
        await fail_point("relay.publish.before_begin", kafka_sockets(self._producer))
        await self._producer.begin_transaction()
        sent = []
        for (owner, shard), mine in parts.items():
            names = self._topics.names.of(owner)
            sent += await self._send(names.events, shard, event_records(mine, json=self._json))
            sent += await self._send(names.state, shard, state_records(mine, json=self._json))
            sent += await self._send(names.dead_letters, shard, dead_letter_records(mine, json=self._json))
        await fail_point("relay.publish.after_send", kafka_sockets(self._producer))
        # The commit would not say that a batch was given up.
        await asyncio.gather(*sent)
        await fail_point("relay.publish.before_commit", kafka_sockets(self._producer))
        await self._producer.commit_transaction()
        await fail_point("relay.publish.after_commit")

    def _parts(self, records: Sequence[OutboxRecord]) -> dict[tuple[str, int], list[OutboxRecord]]:
        """The records by who owns the topics and by shard, each part in order."""
        parts: dict[tuple[str, int], list[OutboxRecord]] = {}
        per_tenant = self._topics.names.per_tenant
        for record in records:
            owner = ALL_TENANTS
            if per_tenant:
                owner = tenant_of(record.value) if record.value else record.traceparent.decode()
                if not owner:
                    # Written by a scheduler of a version before; the state stays on the topic.
                    log.warning("tombstone_without_tenant", task_id=record.task_id)
                    continue
            parts.setdefault((owner, record.shard), []).append(record)
        return parts

    async def _send(self, topic: str, shard: int, records: Iterable[Packed]) -> list[asyncio.Future[object]]:
        """Batches packed by hand: one future a batch instead of one a record, and the order is ours."""
        return [await self._producer.send_batch(batch, topic, partition=shard) for batch in packed(records)]


def packed(records: Iterable[Packed]) -> Iterator[RecordBatch]:
    """The records in batches, in order."""
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
    await fail_point("relay.lane.before_open")
    producer = AIOKafkaProducer(
        **kafka_arguments(settings),
        client_id=f"guildmesh-relay-{lane}",
        transactional_id=f"{settings.events_topic}.relay.{lane}",
        transaction_timeout_ms=int(settings.transaction_timeout_seconds * 1000),
        max_request_size=MOST_RECORD_BYTES,
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
        retry_backoff_ms=50,
    )
    # One that cannot flush (the broker is away) is dropped; the next one ends its transaction.
    async with running_client(producer, start_seconds=2 * _REQUEST_TIMEOUT_MS / 1000, stop_seconds=_STOP_SECONDS):
        await fail_point("relay.lane.after_open", kafka_sockets(producer))
        yield Publisher(producer, OwnedTopics(settings), json=settings.value_format == "json")
