"""The topics, created with their final shape; automatic creation is off."""

from __future__ import annotations

from collections.abc import Collection

import structlog
from aiokafka.admin import NewTopic

from services.common.kafka.topics import check_topics, create_topics, ensure_all, open_admin
from services.scheduler.domain.shards import SHARDS
from services.scheduler.domain.topic_names import ALL_TENANTS, TopicNames
from services.scheduler.topic_settings import TopicSettings

log = structlog.get_logger(__name__)

MOST_RECORD_BYTES = 16 << 20
"""bytes of a record that the topics take: a result of 1 MiB of JSON can be several times that as protobuf."""
WEEK_MS = 7 * 24 * 3600 * 1000


def topics_of(settings: TopicSettings, owner: str = ALL_TENANTS) -> list[NewTopic]:
    """The topics of an owner: events, state, dead letters."""
    names = settings.topic_names.of(owner)
    return [
        events_topic(settings, names.events),
        NewTopic(names.state, SHARDS, settings.replicas, topic_configs={"cleanup.policy": "compact"} | _limits(settings)),
        events_topic(settings, names.dead_letters),
    ]


def events_topic(settings: TopicSettings, name: str) -> NewTopic:
    """A topic of the shape that that of the events has."""
    configs = {"cleanup.policy": "delete", "retention.ms": str(WEEK_MS)}
    return NewTopic(name, SHARDS, settings.replicas, topic_configs=configs | _limits(settings))


def _limits(settings: TopicSettings) -> dict[str, str]:
    limits = {"max.message.bytes": str(MOST_RECORD_BYTES)}
    if settings.replicas >= 3:
        limits["min.insync.replicas"] = "2"
    return limits


class OwnedTopics:
    """The topics of all owners that have been seen, each of which is made before its first record."""

    def __init__(self, settings: TopicSettings) -> None:
        self.names: TopicNames = settings.topic_names
        self._settings = settings
        # Those of all tenants are there before anything is published.
        self._there = {ALL_TENANTS}

    async def ensure(self, owners: Collection[str]) -> None:
        """Makes what is missing for these owners, all at once.

        Raises:
            KafkaError: Kafka does not answer, or refuses.
            WrongTopicShape: a topic has another number of partitions.
        """
        new = sorted(set(owners) - self._there)
        if not new:
            return
        topics = [topic for owner in new for topic in topics_of(self._settings, owner)]
        async with open_admin(self._settings) as admin:
            await create_topics(admin, topics)
        self._there.update(new)
        log.info("topics_ready", tenants=new)


async def ensure_topics(settings: TopicSettings) -> None:
    """Creates what is missing for all tenants; waits for Kafka as long as it takes.

    Raises:
        WrongTopicShape: a topic has another number of partitions.
    """
    await ensure_all(settings, [] if settings.topic_per_tenant else topics_of(settings))


async def check_kafka(settings: TopicSettings) -> None:
    """Raises DependencyUnavailable unless Kafka answers and has the topics of all tenants."""
    await check_topics(settings, [] if settings.topic_per_tenant else settings.topic_names.all)
