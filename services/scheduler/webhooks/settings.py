"""Settings of the webhook process."""

from __future__ import annotations

from pydantic import Field

from services.scheduler.domain.webhook_endpoint import RetryRules
from services.scheduler.master_key_settings import MasterKeySettings
from services.scheduler.topic_settings import TopicSettings
from services.scheduler.webhook_settings import WebhookTargetSettings


class WebhookSettings(TopicSettings, WebhookTargetSettings, MasterKeySettings):
    """What the webhook process reads from the environment besides what every service does."""

    db_pool_size: int = Field(
        6, ge=1, validation_alias="GUILDMESH_WEBHOOK_DB_POOL_SIZE", description="connections kept by a webhook process"
    )
    db_max_overflow: int = Field(6, ge=0, validation_alias="GUILDMESH_WEBHOOK_DB_MAX_OVERFLOW")
    lease_seconds: float = Field(
        6.0,
        gt=0,
        validation_alias="GUILDMESH_WEBHOOK_LEASE_SECONDS",
        description="after which another process takes a lane over",
    )
    poll_seconds: float = Field(
        1.0,
        gt=0,
        validation_alias="GUILDMESH_WEBHOOK_POLL_SECONDS",
        description="how soon a change of a webhook holds, at the latest",
    )
    concurrency: int = Field(
        16, ge=1, le=256, validation_alias="GUILDMESH_WEBHOOK_CONCURRENCY", description="deliveries to one receiver at once"
    )
    tenant_concurrency: int = Field(
        64, ge=1, validation_alias="GUILDMESH_WEBHOOK_TENANT_CONCURRENCY", description="deliveries of one tenant at once"
    )
    total_concurrency: int = Field(
        512, ge=1, le=512, validation_alias="GUILDMESH_WEBHOOK_TOTAL_CONCURRENCY", description="deliveries of a process at once"
    )
    retry_seconds: float = Field(
        1.0,
        gt=0,
        validation_alias="GUILDMESH_WEBHOOK_RETRY_SECONDS",
        description="after which a refused event is tried again; twice as long each time",
    )
    longest_retry_seconds: float = Field(
        3600.0,
        gt=0,
        validation_alias="GUILDMESH_WEBHOOK_LONGEST_RETRY_SECONDS",
        description="the longest time between two tries of an event",
    )
    longest_closed_seconds: float = Field(
        300.0,
        gt=0,
        validation_alias="GUILDMESH_WEBHOOK_LONGEST_CLOSED_SECONDS",
        description="the longest time between two tries of a receiver that takes nothing",
    )
    most_attempts: int = Field(
        16,
        ge=1,
        validation_alias="GUILDMESH_WEBHOOK_MAX_ATTEMPTS",
        description="after which an event is given up that its receiver refuses while it takes others; by default about 5 h",
    )
    most_failures: int = Field(
        8,
        ge=1,
        validation_alias="GUILDMESH_WEBHOOK_MAX_FAILURES",
        description="failures in a row after which a receiver counts as one that takes nothing",
    )
    most_waiting: int = Field(
        10_000,
        ge=4,
        validation_alias="GUILDMESH_WEBHOOK_MAX_WAITING",
        description="about how many events of a webhook may wait outside of the topic",
    )
    failed_days: float = Field(
        30.0, gt=0, validation_alias="GUILDMESH_WEBHOOK_FAILED_DAYS", description="how long a failed delivery is kept"
    )

    @property
    def rules(self) -> RetryRules:
        """How what is refused is tried again."""
        return RetryRules(
            self.retry_seconds, self.longest_retry_seconds, self.longest_closed_seconds, self.most_attempts, self.most_failures
        )
