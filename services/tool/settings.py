"""Settings of the tool service."""

from __future__ import annotations

from pydantic import Field

from services.common.kafka.connection import KafkaSettings
from services.common.settings import blank_is_unset
from services.tool.adapters.sandbox.choice import Choice


class ToolSettings(KafkaSettings):
    """What the tool service needs beyond what every service does."""

    docker_host: str | None = Field(None, validation_alias="DOCKER_HOST", description="Docker engine; default its usual socket")
    sandbox: Choice = Field(
        "auto", validation_alias="GUILDMESH_SANDBOX", description="docker, bubblewrap, or auto: the first that works"
    )
    sandbox_concurrency: int = Field(
        4, ge=1, le=256, validation_alias="GUILDMESH_SANDBOX_CONCURRENCY", description="programs that run at once; others wait"
    )
    sandbox_warm: int = Field(
        1, ge=0, le=64, validation_alias="GUILDMESH_SANDBOX_WARM", description="sandboxes started ahead of their program"
    )

    usage_topic: str = Field("guildmesh.tool-usage.v1", validation_alias="GUILDMESH_TOOL_USAGE_TOPIC")
    replication_factor: int | None = Field(
        None,
        ge=1,
        validation_alias="KAFKA_REPLICATION_FACTOR",
        description="replicas of a new topic; default 1 in development, 3 in production",
    )
    lane_lease_seconds: float = Field(
        6.0,
        gt=0,
        validation_alias="GUILDMESH_TOOL_LANE_SECONDS",
        description="after which another tool process tells the scheduler and Kafka what a dead one did not",
    )
    outbox_poll_seconds: float = Field(
        1.0,
        gt=0,
        validation_alias="GUILDMESH_TOOL_POLL_SECONDS",
        description="how often the outboxes are looked at without a wake-up",
    )

    @property
    def replicas(self) -> int:
        """Replicas of a new topic."""
        return self.replication_factor or (3 if self.profile == "production" else 1)

    _blank_host = blank_is_unset("docker_host")
