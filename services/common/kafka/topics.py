"""Topics, created with their final shape; automatic creation is off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    KafkaError,
    LeaderNotAvailableError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from services.common.errors import DependencyUnavailable
from services.common.kafka.clients import running_client
from services.common.kafka.connection import KafkaSettings, kafka_arguments

log = structlog.get_logger(__name__)

_TIMEOUT_MS = 5000
_LEADER_SECONDS = 5.0
_STOP_SECONDS = 1.0
_LONGEST_PAUSE = 2.0


class WrongTopicShape(Exception):
    """A topic exists with another number of partitions; keys would go elsewhere, so nothing is published to it."""


async def ensure_all(settings: KafkaSettings, topics: Sequence[NewTopic]) -> None:
    """Creates what is missing; waits for Kafka as long as it takes, also when there is nothing to create.

    Raises:
        WrongTopicShape: a topic has another number of partitions.
    """
    pause = 0.2
    while True:
        try:
            async with open_admin(settings) as admin:
                await create_topics(admin, topics)
            return
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("topics_not_ready", error=repr(error), retry_in=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


async def check_topics(settings: KafkaSettings, names: Iterable[str]) -> None:
    """Raises DependencyUnavailable unless Kafka answers and has the topics."""
    try:
        async with asyncio.timeout(2.5), open_admin(settings) as admin:
            there = await admin.list_topics()
    except (KafkaError, OSError, TimeoutError) as error:
        raise DependencyUnavailable("Kafka cluster") from error
    if not set(names) <= set(there):
        raise DependencyUnavailable("topic set on Kafka")


async def create_topics(admin: AIOKafkaAdminClient, topics: Sequence[NewTopic]) -> None:
    """Creates what is missing of the topics, and waits until each partition has a leader.

    Raises:
        KafkaError: Kafka does not answer, or refuses.
        WrongTopicShape: a topic has another number of partitions.
    """
    # Who asks for a topic by its name may have it made, of another shape, where a cluster does that by itself.
    there = set(await admin.list_topics())
    if missing := [topic for topic in topics if topic.name not in there]:
        response = await admin.create_topics(missing)
        for name, code, *rest in response.topic_errors:
            error = for_code(code)
            if code and error is not TopicAlreadyExistsError:
                raise error(f"{name}: {rest[0] if rest and rest[0] else error.description}")
    async with asyncio.timeout(_LEADER_SECONDS):
        while True:
            if await _are_ready(admin, topics):
                return
            await asyncio.sleep(0.05)


async def _are_ready(admin: AIOKafkaAdminClient, topics: Sequence[NewTopic]) -> bool:
    """Whether each partition has a leader; one of a new topic has none for a moment, and who meets that is slow."""
    described = {each["topic"]: each for each in await admin.describe_topics([topic.name for topic in topics])}
    for topic in topics:
        found = described[topic.name]
        if found["error_code"]:
            error = for_code(found["error_code"])
            if error in (UnknownTopicOrPartitionError, LeaderNotAvailableError):
                return False
            raise error(topic.name)
        if len(found["partitions"]) != topic.num_partitions:
            raise WrongTopicShape(
                f"The topic {topic.name} has {len(found['partitions'])} partitions and needs {topic.num_partitions}; delete it or"
                " set another name."
            )
        if any(partition["error_code"] or partition["leader"] < 0 for partition in found["partitions"]):
            return False
    return True


@asynccontextmanager
async def open_admin(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    """An administrator's client; raises KafkaError, OSError or TimeoutError when no broker answers."""
    admin = AIOKafkaAdminClient(**kafka_arguments(settings), client_id="guildmesh-admin", request_timeout_ms=_TIMEOUT_MS)
    async with running_client(admin, start_seconds=2 * _TIMEOUT_MS / 1000, stop_seconds=_STOP_SECONDS):
        yield admin
