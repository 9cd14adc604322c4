"""Settings of the relay."""

from __future__ import annotations

from pydantic import Field

from services.common.settings import ServiceSettings


class RelaySettings(ServiceSettings):
    """What the relay reads from the environment besides what every service does."""

    events_topic: str = Field("guildmesh.task-events.v1", validation_alias="GUILDMESH_TASK_EVENTS_TOPIC")
    state_topic: str = Field("guildmesh.task-state.v1", validation_alias="GUILDMESH_TASK_STATE_TOPIC")
    replication_factor: int | None = Field(
        None,
        ge=1,
        validation_alias="KAFKA_REPLICATION_FACTOR",
        description="replicas of a new topic; default 1 in development, 3 in production",
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

    @property
    def replicas(self) -> int:
        """Replicas of a new topic."""
        return self.replication_factor or (3 if self.profile == "production" else 1)
