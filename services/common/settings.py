"""Settings that every service reads from the environment and from `.env` (requirement row 15)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def blank_is_unset(*settings: str) -> Any:
    """A validator of settings that may be unset: a blank one, such as that of a line `NAME=` in `.env`, is."""

    def none_of_blank(value: object) -> object:
        return value or None

    return field_validator(*settings, mode="before")(none_of_blank)


class ServiceSettings(BaseSettings):
    """Settings of a service process; the names are the plan's, and `GUILDMESH_…` where the plan has none."""

    model_config = SettingsConfigDict(
        env_file=".env",
        case_sensitive=False,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    profile: Literal["development", "production"] = Field("development", validation_alias="GUILDMESH_PROFILE")
    listen_host: str = Field("127.0.0.1", validation_alias="GUILDMESH_LISTEN_HOST", description="address the gRPC port binds to")
    port: int = Field(50051, ge=0, le=65535, validation_alias="GUILDMESH_PORT", description="gRPC port; 0 takes a free one")
    admin_port: int = Field(
        9091,
        ge=0,
        le=65535,
        validation_alias="GUILDMESH_ADMIN_PORT",
        description="plain HTTP port of /health, /ready, /metrics",
    )
    tls_dir: Path = Field(
        Path(".guildmesh/tls"),
        validation_alias="GUILDMESH_TLS_DIR",
        description="folder with ca.crt, tls.crt and tls.key of this process",
    )
    drain_seconds: float = Field(
        5.0,
        ge=0,
        validation_alias="GUILDMESH_DRAIN_SECONDS",
        description="how long running calls may still take at a stop",
    )
    state_dir: Path = Field(Path(".guildmesh"), validation_alias="GUILDMESH_STATE_DIR")
    log_level: str = Field("INFO", validation_alias="LOG_LEVEL")

    identity_target: str = Field("identity:50051", validation_alias="GUILDMESH_IDENTITY_TARGET")
    scheduler_target: str = Field("scheduler:50051", validation_alias="GUILDMESH_SCHEDULER_TARGET")
    agent_target: str = Field("agent:50051", validation_alias="GUILDMESH_AGENT_TARGET")
    tool_target: str = Field("tool:50051", validation_alias="GUILDMESH_TOOL_TARGET")
    memory_target: str = Field("memory:50051", validation_alias="GUILDMESH_MEMORY_TARGET")
    monitor_target: str = Field("monitor:50051", validation_alias="GUILDMESH_MONITOR_TARGET")

    database_url: SecretStr = Field(SecretStr("postgresql://guildmesh@127.0.0.1:5432/guildmesh"), validation_alias="DATABASE_URL")
    db_pool_size: int = Field(
        20, ge=1, validation_alias="DB_POOL_SIZE", description="connections kept per process (requirement row 5)"
    )
    db_max_overflow: int = Field(40, ge=0, validation_alias="DB_MAX_OVERFLOW")
    db_pool_timeout: float = Field(30.0, gt=0, validation_alias="DB_POOL_TIMEOUT", description="seconds to wait for a connection")
    db_pool_recycle: int = Field(
        3600, ge=1, validation_alias="DB_POOL_RECYCLE", description="seconds after which a connection is replaced"
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        validation_alias="REDIS_URL",
        description="limits and revocations; must not evict",
    )
    redis_cache_url: SecretStr | None = Field(None, validation_alias="REDIS_CACHE_URL", description="cache; default REDIS_URL")
    redis_max_connections: int = Field(50, ge=1, validation_alias="REDIS_MAX_CONNECTIONS")

    object_store_url: str = Field(
        "",
        validation_alias="OBJECT_STORE_URL",
        description="where large payloads are kept: s3://BUCKET/PREFIX, gs://…, az://…, file:///FOLDER; default objects in the"
        " state folder, which all schedulers must then share",
    )
    object_store_endpoint: str = Field("", validation_alias="AWS_ENDPOINT_URL", description="of S3, when it is not Amazon's")
    object_store_region: str = Field("", validation_alias="AWS_REGION", description="of S3; us-east-1 when it is not said")
    aws_access_key_id: SecretStr | None = Field(
        None,
        validation_alias="AWS_ACCESS_KEY_ID",
        description="of S3; without it what the machine has, such as an instance's role",
    )
    aws_secret_access_key: SecretStr | None = Field(None, validation_alias="AWS_SECRET_ACCESS_KEY")
    aws_session_token: SecretStr | None = Field(
        None, validation_alias="AWS_SESSION_TOKEN", description="of keys that are lent for a time"
    )
    azure_account_name: str = Field("", validation_alias="AZURE_STORAGE_ACCOUNT_NAME", description="of az://")
    azure_account_key: SecretStr | None = Field(None, validation_alias="AZURE_STORAGE_ACCOUNT_KEY")
    google_credentials: str = Field(
        "", validation_alias="GOOGLE_APPLICATION_CREDENTIALS", description="file with the key of a service account, for gs://"
    )

    enable_metrics: bool = Field(True, validation_alias="ENABLE_METRICS")
    enable_tracing: bool = Field(False, validation_alias="ENABLE_TRACING", description="send spans to OTLP_ENDPOINT")
    otlp_endpoint: str = Field("http://localhost:4317", validation_alias="OTLP_ENDPOINT")
    trace_sample_rate: float | None = Field(
        None,
        ge=0,
        le=1,
        validation_alias="TRACE_SAMPLE_RATE",
        description="default 1 in development, 0.1 in production",
    )

    _blank_cache = blank_is_unset("redis_cache_url")

    @property
    def sample_rate(self) -> float:
        """Share of new traces that are sent (requirement row 8)."""
        if self.trace_sample_rate is not None:
            return self.trace_sample_rate
        return 0.1 if self.profile == "production" else 1.0

    @property
    def object_store(self) -> str:
        """The URL of the object store."""
        return self.object_store_url or (self.state_dir.absolute() / "objects").as_uri()

    @property
    def object_store_keys(self) -> dict[str, str]:
        """What the object store wants to see, by obstore's names for the sort of store that the URL names."""
        keys: dict[str, dict[str, str | SecretStr | None]] = {
            "s3": {
                "access_key_id": self.aws_access_key_id,
                "secret_access_key": self.aws_secret_access_key,
                "session_token": self.aws_session_token,
            },
            "az": {"account_name": self.azure_account_name, "account_key": self.azure_account_key},
            "gs": {"application_credentials": self.google_credentials},
        }
        given = keys.get(self.object_store.partition(":")[0], {})
        told = {name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in given.items()}
        return {name: value for name, value in told.items() if value}

    def target(self, service: str) -> str:
        """host:port of another service."""
        value: str = getattr(self, f"{service}_target")
        return value
