"""Settings of the tool service."""

from __future__ import annotations

from pydantic import Field, field_validator

from services.common.settings import ServiceSettings
from services.tool.adapters.sandbox.choice import Choice


class ToolSettings(ServiceSettings):
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

    @field_validator("docker_host", mode="before")
    @classmethod
    def _blank_is_unset(cls, value: object) -> object:
        return value or None
