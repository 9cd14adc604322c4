"""Settings of the monitor service."""

from __future__ import annotations

from pydantic import Field

from services.common.kafka.connection import KafkaSettings

ADMIN_PROCESSES = ("identity", "scheduler", "relay", "webhooks", "agent", "worker", "tool", "memory")


class MonitorSettings(KafkaSettings):
    """Adds the admin ports of the other processes; each setting may name several, separated by commas."""

    identity_admin: str = Field("", validation_alias="GUILDMESH_IDENTITY_ADMIN", description="host:port of its admin port")
    scheduler_admin: str = Field("", validation_alias="GUILDMESH_SCHEDULER_ADMIN")
    relay_admin: str = Field("", validation_alias="GUILDMESH_RELAY_ADMIN")
    webhooks_admin: str = Field("", validation_alias="GUILDMESH_WEBHOOKS_ADMIN")
    agent_admin: str = Field("", validation_alias="GUILDMESH_AGENT_ADMIN")
    worker_admin: str = Field("", validation_alias="GUILDMESH_WORKER_ADMIN")
    tool_admin: str = Field("", validation_alias="GUILDMESH_TOOL_ADMIN")
    memory_admin: str = Field("", validation_alias="GUILDMESH_MEMORY_ADMIN")

    def admins(self, process: str) -> list[str]:
        """host:port of each known admin port of a kind of process."""
        value: str = getattr(self, f"{process}_admin")
        return [address.strip() for address in value.split(",") if address.strip()]
