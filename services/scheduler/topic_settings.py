"""Settings of the topics, for the relay that writes them and the scheduler that reads them."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from services.common.kafka.connection import KafkaSettings
from services.scheduler.domain.topic_names import TopicNames

# Of the 249 that Kafka allows, a tenant may take 63 and a dot.
_LONGEST = 180
TOPIC_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")


class TopicSettings(KafkaSettings):
    """Which topics there are, and of what shape a new one is."""

    events_topic: str = Field(
        "guildmesh.task-events.v1", validation_alias="GUILDMESH_TASK_EVENTS_TOPIC", description="topic of all events"
    )
    state_topic: str = Field(
        "guildmesh.task-state.v1",
        validation_alias="GUILDMESH_TASK_STATE_TOPIC",
        description="compacted topic of the newest state of each task",
    )
    dead_letters_topic: str = Field(
        "guildmesh.dead-letters.v1",
        validation_alias="GUILDMESH_DEAD_LETTERS_TOPIC",
        description="topic of the tasks that failed for good",
    )
    topic_per_tenant: bool = Field(
        False,
        validation_alias="KAFKA_TOPIC_PER_TENANT",
        description="each tenant has its own topics, such as guildmesh.acme.task-events.v1; relays, schedulers and webhook"
        " processes need the same",
    )
    replication_factor: int | None = Field(
        None,
        ge=1,
        validation_alias="KAFKA_REPLICATION_FACTOR",
        description="replicas of a new topic; default 1 in development, 3 in production",
    )

    @field_validator("events_topic", "state_topic", "dead_letters_topic")
    @classmethod
    def _may_be_a_topic(cls, value: str) -> str:
        if not TOPIC_NAME.fullmatch(value) or len(value) > _LONGEST:
            raise ValueError(f"a topic's name has letters, digits, '.', '_' and '-' only, at most {_LONGEST} in all; change it.")
        return value

    @model_validator(mode="after")
    def _are_apart(self) -> Self:
        if len(set(self.topic_names.all)) < len(self.topic_names.all):
            raise ValueError("the topics of events, state and dead letters must have three different names.")
        return self

    @property
    def topic_names(self) -> TopicNames:
        """What the topics are called."""
        return TopicNames(self.events_topic, self.state_topic, self.dead_letters_topic, self.topic_per_tenant)

    @property
    def replicas(self) -> int:
        """Replicas of a new topic."""
        return self.replication_factor or (3 if self.profile == "production" else 1)
