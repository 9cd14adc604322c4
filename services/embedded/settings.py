"""What an operator may choose about the embedded mesh, from the environment and `.env`; names as for the services."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.embedded.errors import MeshError, first_problem


class MeshSettings(BaseSettings):
    """Settings of `guildmesh up` and of the commands that look at what it started."""

    model_config = SettingsConfigDict(
        env_file=".env", case_sensitive=False, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    profile: Literal["development", "production"] = Field("development", validation_alias="GUILDMESH_PROFILE")
    state_dir: Path = Field(Path(".guildmesh"), validation_alias="GUILDMESH_STATE_DIR")

    api_host: str = Field("127.0.0.1", validation_alias="API_HOST", description="address of the public port")
    api_port: int = Field(8000, ge=1, le=65535, validation_alias="API_PORT")
    api_workers: int = Field(1, ge=1, le=64, validation_alias="API_WORKERS", description="agent processes on one port")
    kafka_port: int = Field(9092, ge=1, le=65535, validation_alias="KAFKA_PORT", description="of the embedded Kafka")
    metrics_port: int = Field(9091, ge=1, le=65535, validation_alias="METRICS_PORT", description="the sum of all metrics")

    database_url: SecretStr | None = Field(None, validation_alias="DATABASE_URL")
    redis_url: SecretStr | None = Field(None, validation_alias="REDIS_URL")
    redis_cache_url: SecretStr | None = Field(None, validation_alias="REDIS_CACHE_URL")
    kafka_bootstrap_servers: str | None = Field(None, validation_alias="KAFKA_BOOTSTRAP_SERVERS")
    kafka_security_protocol: str = Field(
        "PLAINTEXT", validation_alias="KAFKA_SECURITY_PROTOCOL", description="of a Kafka elsewhere; the embedded one has none"
    )
    kafka_sasl_password: SecretStr | None = Field(None, validation_alias="KAFKA_SASL_PASSWORD")
    openai_base_url: str | None = Field(None, validation_alias="OPENAI_BASE_URL")
    openai_api_key: SecretStr | None = Field(None, validation_alias="OPENAI_API_KEY")
    anthropic_api_key: SecretStr | None = Field(None, validation_alias="ANTHROPIC_API_KEY")
    default_llm_provider: str | None = Field(None, validation_alias="DEFAULT_LLM_PROVIDER")
    local_llm_url: str | None = Field(None, validation_alias="GUILDMESH_LOCAL_LLM_URL")

    db_pool_size: int = Field(20, ge=1, validation_alias="DB_POOL_SIZE")
    db_max_overflow: int = Field(40, ge=0, validation_alias="DB_MAX_OVERFLOW")
    drain_seconds: float = Field(5.0, ge=0, validation_alias="GUILDMESH_DRAIN_SECONDS")

    jwt_secret_key: SecretStr | None = Field(None, validation_alias="JWT_SECRET_KEY")
    master_key: SecretStr | None = Field(None, validation_alias="GUILDMESH_MASTER_KEY")
    event_master_key: SecretStr | None = Field(None, validation_alias="GUILDMESH_EVENT_MASTER_KEY")
    event_master_key_before: SecretStr | None = Field(None, validation_alias="GUILDMESH_EVENT_MASTER_KEY_BEFORE")
    event_content: Literal["plain", "omit", "encrypted"] | None = Field(None, validation_alias="KAFKA_EVENT_CONTENT")
    jwt_algorithm: str = Field("HS256", validation_alias="JWT_ALGORITHM")
    trace_sample_rate: float | None = Field(None, ge=0, le=1, validation_alias="TRACE_SAMPLE_RATE")
    cors_origins: str | None = Field(
        None, validation_alias="CORS_ORIGINS", description="comma-separated; default * in development, none in production"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object, info: object) -> object:
        # `.env.example` copied as it is has empty values for what is not chosen.
        if value == "":
            name = getattr(info, "field_name", None)
            return cls.model_fields[str(name)].default
        return value


def load_settings() -> MeshSettings:
    """Reads the settings; raises MeshError that names the variable that is wrong."""
    try:
        return MeshSettings()
    except ValidationError as error:
        raise MeshError(f"{first_problem(error)}; change it in the environment or in .env.") from error
