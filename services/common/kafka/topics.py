"""Topics, created with their final shape; automatic creation is off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, LeaderNotAvailableError, TopicAlreadyExistsError, for_code

from services.common.errors import DependencyUnavailable

log = structlog.get_logger(__name__)

_TIMEOUT_MS = 5000
_LONGEST_PAUSE = 2.0


class WrongTopicShape(Exception):
    """A topic exists with another number of partitions; keys would go elsewhere, so nothing is published to it."""


async def ensure_topics(bootstrap_servers: str, client_id: str, topics: Sequence[NewTopic]) -> None:
    """Creates what is missing; waits for Kafka as long as it takes.

    Raises:
        WrongTopicShape: a topic has another number of partitions.
    """
    pause = 0.2
    while True:
        try:
            async with _admin(bootstrap_servers, client_id) as admin:
                await _create(admin, topics)
                await _check_shape(admin, topics)
            return
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("topics_not_ready", error=repr(error), retry_in=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


async def check_topics(bootstrap_servers: str, client_id: str, names: set[str]) -> None:
    """Raises DependencyUnavailable unless Kafka answers and has the topics."""
    try:
        async with asyncio.timeout(2.5), _admin(bootstrap_servers, client_id) as admin:
            there = await admin.list_topics()
    except (KafkaError, OSError, TimeoutError) as error:
        raise DependencyUnavailable("Kafka cluster") from error
    if not names <= set(there):
        raise DependencyUnavailable("topic set on Kafka")


async def _create(admin: AIOKafkaAdminClient, topics: Sequence[NewTopic]) -> None:
    response = await admin.create_topics(list(topics))
    for name, code, *rest in response.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise error(f"{name}: {rest[0] if rest and rest[0] else error.description}")


async def _check_shape(admin: AIOKafkaAdminClient, topics: Sequence[NewTopic]) -> None:
    wanted = {topic.name: topic.num_partitions for topic in topics}
    for topic in await admin.describe_topics(list(wanted)):
        if topic["error_code"]:
            raise for_code(topic["error_code"])(topic["topic"])
        if len(topic["partitions"]) != wanted[topic["topic"]]:
            raise WrongTopicShape(
                f"The topic {topic['topic']} has {len(topic['partitions'])} partitions and needs {wanted[topic['topic']]}; delete"
                " it or set another name."
            )
        # A partition of a new topic has no leader for a moment, and a transaction that meets that is slow.
        if any(partition["error_code"] or partition["leader"] < 0 for partition in topic["partitions"]):
            raise LeaderNotAvailableError(topic["topic"])


@asynccontextmanager
async def _admin(bootstrap_servers: str, client_id: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, client_id=client_id, request_timeout_ms=_TIMEOUT_MS)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()
