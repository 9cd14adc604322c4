"""The topics, created with their final shape; automatic creation is off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, LeaderNotAvailableError, TopicAlreadyExistsError, for_code

from services.common.errors import DependencyUnavailable
from services.scheduler.domain.shards import SHARDS
from services.scheduler.relay.publisher import MOST_REQUEST_BYTES
from services.scheduler.relay.settings import RelaySettings

log = structlog.get_logger(__name__)

_WEEK_MS = 7 * 24 * 3600 * 1000
_TIMEOUT_MS = 5000
_LONGEST_PAUSE = 2.0


class WrongTopicShape(Exception):
    """A topic exists with another number of partitions; keys would go elsewhere, so nothing is published to it."""


def topics_of(settings: RelaySettings) -> list[NewTopic]:
    """The two topics of the relay."""
    common = {"max.message.bytes": str(MOST_REQUEST_BYTES)}
    if settings.replicas >= 3:
        common["min.insync.replicas"] = "2"
    events = {"cleanup.policy": "delete", "retention.ms": str(_WEEK_MS), **common}
    state = {"cleanup.policy": "compact", **common}
    return [
        NewTopic(settings.events_topic, SHARDS, settings.replicas, topic_configs=events),
        NewTopic(settings.state_topic, SHARDS, settings.replicas, topic_configs=state),
    ]


async def ensure_topics(settings: RelaySettings) -> None:
    """Creates what is missing; waits for Kafka as long as it takes.

    Raises:
        WrongTopicShape: a topic has another number of partitions.
    """
    pause = 0.2
    while True:
        try:
            async with _admin(settings) as admin:
                await _create(admin, topics_of(settings))
                await _check_shape(admin, [settings.events_topic, settings.state_topic])
            return
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("topics_not_ready", error=repr(error), retry_in=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


async def check_kafka(settings: RelaySettings) -> None:
    """Raises DependencyUnavailable unless Kafka answers and has the topics."""
    try:
        async with asyncio.timeout(2.5), _admin(settings) as admin:
            names = await admin.list_topics()
    except (KafkaError, OSError, TimeoutError) as error:
        raise DependencyUnavailable("Kafka cluster") from error
    if not {settings.events_topic, settings.state_topic} <= set(names):
        raise DependencyUnavailable("topic set on Kafka")


async def _create(admin: AIOKafkaAdminClient, topics: list[NewTopic]) -> None:
    response = await admin.create_topics(topics)
    for name, code, *rest in response.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise error(f"{name}: {rest[0] if rest and rest[0] else error.description}")


async def _check_shape(admin: AIOKafkaAdminClient, names: list[str]) -> None:
    for topic in await admin.describe_topics(names):
        if topic["error_code"]:
            raise for_code(topic["error_code"])(topic["topic"])
        if len(topic["partitions"]) != SHARDS:
            raise WrongTopicShape(
                f"The topic {topic['topic']} has {len(topic['partitions'])} partitions and needs {SHARDS}; delete it or set"
                " another name."
            )
        # A partition of a new topic has no leader for a moment, and a transaction that meets that is slow.
        if any(partition["error_code"] or partition["leader"] < 0 for partition in topic["partitions"]):
            raise LeaderNotAvailableError(topic["topic"])


@asynccontextmanager
async def _admin(settings: RelaySettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(
        bootstrap_servers=settings.kafka_bootstrap_servers, client_id="guildmesh-relay-admin", request_timeout_ms=_TIMEOUT_MS
    )
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()
