"""The topic guildmesh.tool-usage.v1: a CloudEvents record for each run of a tool, keyed by tenant."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError
from guildmesh.events.v1.tool_usage_pb2 import ToolUsage

from services.common.errors import DependencyUnavailable
from services.common.failpoints import fail_point, kafka_sockets
from services.common.kafka.clients import running_client
from services.common.kafka.connection import KafkaSettings, kafka_arguments
from services.common.kafka.topics import WrongTopicShape, ensure_all
from services.tool.domain.told import Usage

PARTITIONS = 16
TYPE = "guildmesh.tool.used.v1"
_WEEK_MS = 7 * 24 * 3600 * 1000
_REQUEST_TIMEOUT_MS = 10_000
_TRANSACTION_MS = 30_000
_PUBLISH_SECONDS = 10.0
_STOP_SECONDS = 5.0
_SHAPE_SECONDS = 30.0
_log = structlog.get_logger(__name__)
_CLUSTER = "Kafka cluster"
Headers = list[tuple[str, bytes]]


class KafkaUsageTopic:
    """Implements the port UsageTopic."""

    def __init__(self, settings: KafkaSettings, topic: str, replicas: int) -> None:
        self._settings = settings
        self._topic = topic
        self._replicas = replicas

    async def ensure(self) -> None:
        """See UsageTopic."""
        configs = {"cleanup.policy": "delete", "retention.ms": str(_WEEK_MS)}
        if self._replicas >= 3:
            configs["min.insync.replicas"] = "2"
        topic = NewTopic(self._topic, PARTITIONS, self._replicas, topic_configs=configs)
        while True:
            try:
                await ensure_all(self._settings, [topic])
                return
            except WrongTopicShape as error:
                # Tools run without it, and what is to be published waits.
                _log.error("topic_not_usable", error=str(error))
                await asyncio.sleep(_SHAPE_SECONDS)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[KafkaUsagePublisher]:
        """See UsageTopic. Kafka refuses the producer of whoever had the same transactional id before."""
        producer = AIOKafkaProducer(
            **kafka_arguments(self._settings),
            client_id="guildmesh-tool-usage",
            transactional_id=f"{self._topic}.relay",
            transaction_timeout_ms=_TRANSACTION_MS,
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
            retry_backoff_ms=50,
        )
        running = running_client(producer, start_seconds=2 * _REQUEST_TIMEOUT_MS / 1000, stop_seconds=_STOP_SECONDS)
        # One that cannot flush is dropped; the next ends its transaction.
        async with contextlib.AsyncExitStack() as stack:
            with _away():
                await stack.enter_async_context(running)
            yield KafkaUsagePublisher(producer, self._topic)


class KafkaUsagePublisher:
    """Implements the port UsagePublisher."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def publish(self, usages: Sequence[Usage]) -> None:
        """See UsagePublisher."""
        cut = kafka_sockets(self._producer)
        with _away():
            async with asyncio.timeout(_PUBLISH_SECONDS):
                await self._producer.begin_transaction()
                sent = []
                for usage in usages:
                    key = usage.tenant_id.encode()
                    sent.append(await self._producer.send(self._topic, usage.payload, key, headers=headers_of(usage)))
                await asyncio.gather(*sent)
                await fail_point("tool.publish.before_commit", cut)
                await self._producer.commit_transaction()
                await fail_point("tool.publish.after_commit", cut)


def headers_of(usage: Usage) -> Headers:
    """CloudEvents 1.0, Kafka binding, binary mode; a function of the record alone: a repeat is the same to the last byte."""
    record = ToolUsage.FromString(usage.payload)
    time = record.end_time.ToDatetime(UTC).isoformat().replace("+00:00", "Z")
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", usage.usage_id.encode()),
        ("ce_type", TYPE.encode()),
        ("ce_source", b"/guildmesh/tool"),
        ("ce_subject", record.execution_id.encode()),
        ("ce_time", time.encode()),
        ("ce_tenantid", usage.tenant_id.encode()),
        ("content-type", b"application/protobuf"),
        ("ce_dataschema", b"type.googleapis.com/guildmesh.events.v1.ToolUsage"),
    ]
    if usage.traceparent:
        headers += [("traceparent", usage.traceparent.encode()), ("ce_traceparent", usage.traceparent.encode())]
    return headers


@contextlib.contextmanager
def _away() -> Iterator[None]:
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise DependencyUnavailable(_CLUSTER) from error
