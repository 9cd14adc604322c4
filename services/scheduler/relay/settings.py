"""Settings of the relay."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from services.scheduler.event_content_settings import EventContentSettings
from services.scheduler.topic_settings import TopicSettings


class RelaySettings(TopicSettings):
    """What the relay reads from the environment besides what every service does."""

    value_format: Literal["protobuf", "json"] = Field(
        "protobuf",
        validation_alias="KAFKA_VALUE_FORMAT",
        description="how the values of records are written; json is proto3 JSON with the names of the contract",
    )
    lease_seconds: float = Field(
        6.0, gt=0, validation_alias="GUILDMESH_RELAY_LEASE_SECONDS", description="after which another relay takes a lane over"
    )
    poll_seconds: float = Field(
        1.0,
        gt=0,
        validation_alias="GUILDMESH_RELAY_POLL_SECONDS",
        description="how often the outbox is looked at without a wake-up",
    )
    transaction_timeout_seconds: float = Field(
        30.0,
        ge=1,
        validation_alias="GUILDMESH_RELAY_TRANSACTION_SECONDS",
        description="after which Kafka aborts what a lost relay began",
    )
    late_seconds: float = Field(
        30.0,
        gt=0,
        validation_alias="GUILDMESH_RELAY_LATE_SECONDS",
        description="how old the oldest event that waits for Kafka may be until relays say that they are not ready",
    )

    @field_validator("value_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return (value.lower() or "protobuf") if isinstance(value, str) else value


class ReplaySettings(RelaySettings, EventContentSettings):
    """What a replay reads: what a relay does, and what the schedulers go by that made the events."""
