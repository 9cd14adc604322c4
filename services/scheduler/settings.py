"""Settings of the scheduler service."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from services.scheduler.event_content_settings import EventContentSettings
from services.scheduler.topic_settings import TopicSettings
from services.scheduler.webhook_settings import WebhookTargetSettings


class SchedulerSettings(TopicSettings, WebhookTargetSettings, EventContentSettings):
    """What the scheduler reads from the environment besides what every service does."""

    lease_seconds: float = Field(
        15.0, gt=0, le=3600, validation_alias="GUILDMESH_LEASE_SECONDS", description="how long a lease lasts without a heartbeat"
    )
    heartbeat_seconds: float = Field(
        5.0, gt=0, validation_alias="GUILDMESH_HEARTBEAT_SECONDS", description="how often a worker is asked to send a heartbeat"
    )
    token_renewal_seconds: float = Field(
        60.0,
        gt=0,
        validation_alias="GUILDMESH_TOKEN_RENEWAL_SECONDS",
        description="how long before its token ends a worker is asked for a stream with a fresh one",
    )
    sweep_seconds: float = Field(
        1.0, gt=0, validation_alias="GUILDMESH_SWEEP_SECONDS", description="how often lost workers and timeouts are looked for"
    )
    timer_poll_seconds: float = Field(
        0.5,
        gt=0,
        validation_alias="GUILDMESH_TIMER_POLL_SECONDS",
        description="how often tasks whose start was delayed are looked for: one delayed by less may start so much later",
    )
    schedule_poll_seconds: float = Field(
        1.0,
        gt=0,
        validation_alias="GUILDMESH_SCHEDULE_POLL_SECONDS",
        description="how often schedules that are due are looked for at least; a process also wakes when the next one is due",
    )
    max_schedules: int = Field(
        10_000, ge=1, validation_alias="GUILDMESH_MAX_SCHEDULES", description="how many schedules a tenant may have"
    )
    max_webhooks: int = Field(
        100, ge=1, validation_alias="GUILDMESH_MAX_WEBHOOKS", description="how many webhooks a tenant may have"
    )
    lease_poll_seconds: float = Field(
        2.0,
        gt=0,
        validation_alias="GUILDMESH_LEASE_POLL_SECONDS",
        description="how often waiting tasks are looked for without a wake-up",
    )
    dispatch_address: str = Field(
        "",
        validation_alias="GUILDMESH_DISPATCH_ADDRESS",
        description="host:port at which the other schedulers reach this one; the listen host, or the machine's own address when"
        " it listens on all, with the gRPC port where it is empty",
    )
    dispatch_lease_seconds: float = Field(
        1.5,
        ge=0.5,
        le=60,
        validation_alias="GUILDMESH_DISPATCH_LEASE_SECONDS",
        description="how long the scheduler that decides for queues with limits may be silent until another one does",
    )
    watch_poll_seconds: float = Field(
        5.0,
        gt=0,
        validation_alias="GUILDMESH_WATCH_POLL_SECONDS",
        description="how often a watcher looks for events without a wake-up",
    )
    sse_keep_alive_seconds: float = Field(
        15.0,
        gt=0,
        validation_alias="GUILDMESH_SSE_KEEP_ALIVE_SECONDS",
        description="how often a silent event stream sends a comment",
    )

    retention_days: Literal[0, 1, 7, 30, 90] = Field(
        30,
        validation_alias="GUILDMESH_RETENTION_DAYS",
        description="how long a task is kept after its end when its queue does not say; 0 for ever",
    )
    retention_seconds: float = Field(
        60.0,
        gt=0,
        validation_alias="GUILDMESH_RETENTION_SECONDS",
        description="how often tasks that were kept long enough are looked for",
    )

    payload_max_bytes: int = Field(
        256 << 20, gt=0, validation_alias="GUILDMESH_PAYLOAD_MAX_BYTES", description="the largest payload that may be uploaded"
    )
    payload_unused_seconds: float = Field(
        86400.0,
        gt=0,
        validation_alias="GUILDMESH_PAYLOAD_UNUSED_SECONDS",
        description="how long a payload that no task uses is kept after its upload",
    )
    payload_upload_seconds: float = Field(
        3600.0, gt=0, validation_alias="GUILDMESH_PAYLOAD_UPLOAD_SECONDS", description="how long an upload may take"
    )
    payload_check_seconds: float = Field(
        3600.0,
        gt=0,
        validation_alias="GUILDMESH_PAYLOAD_CHECK_SECONDS",
        description="how often a payload that tasks use is looked at: it goes so much later than the last of them at most",
    )
    payload_sweep_seconds: float = Field(
        10.0, gt=0, validation_alias="GUILDMESH_PAYLOAD_SWEEP_SECONDS", description="how often unused payloads are looked for"
    )

    @property
    def lease(self) -> timedelta:
        """How long a lease lasts without a heartbeat."""
        return timedelta(seconds=self.lease_seconds)

    @property
    def dispatch_lease(self) -> timedelta:
        """How long the scheduler that decides may be silent."""
        return timedelta(seconds=self.dispatch_lease_seconds)

    @property
    def heartbeat(self) -> timedelta:
        """How often a worker sends a heartbeat."""
        return timedelta(seconds=self.heartbeat_seconds)

    @property
    def token_renewal(self) -> timedelta:
        """How long before its token ends a worker is asked for another stream."""
        return timedelta(seconds=self.token_renewal_seconds)

    @model_validator(mode="after")
    def _heartbeats_fit(self) -> Self:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                "GUILDMESH_HEARTBEAT_SECONDS must be at most half of GUILDMESH_LEASE_SECONDS, so that one lost heartbeat"
                " does not lose the lease"
            )
        return self
