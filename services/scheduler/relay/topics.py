"""The topics of the relay, with their final shape."""

from __future__ import annotations

from aiokafka.admin import NewTopic

from services.common.kafka import topics
from services.scheduler.domain.shards import SHARDS
from services.scheduler.relay.publisher import MOST_REQUEST_BYTES
from services.scheduler.relay.settings import RelaySettings

_CLIENT_ID = "guildmesh-relay-admin"
_WEEK_MS = 7 * 24 * 3600 * 1000


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
    await topics.ensure_topics(settings.kafka_bootstrap_servers, _CLIENT_ID, topics_of(settings))


async def check_kafka(settings: RelaySettings) -> None:
    """Raises DependencyUnavailable unless Kafka answers and has the topics."""
    await topics.check_topics(settings.kafka_bootstrap_servers, _CLIENT_ID, {settings.events_topic, settings.state_topic})
