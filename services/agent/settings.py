"""Settings of the agent service's processes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator

from services.common.settings import ServiceSettings


class AgentSettings(ServiceSettings):
    """Settings of `python -m services.agent` and `python -m services.agent.worker`."""

    api_workers: int = Field(
        4, ge=1, le=64, validation_alias="API_WORKERS", description="api processes on the one port (requirement row 15)"
    )
    openai_api_key: SecretStr | None = Field(None, validation_alias="OPENAI_API_KEY")
    openai_base_url: str | None = Field(
        None,
        validation_alias="OPENAI_BASE_URL",
        description="any OpenAI-compatible server, for the provider openai; default OpenAI's own",
    )
    openai_model: str = Field("gpt-5.4-mini", min_length=1, validation_alias="OPENAI_MODEL", description="its default model")
    openai_context_tokens: int = Field(
        128_000, ge=1024, validation_alias="OPENAI_CONTEXT_TOKENS", description="context window of that model"
    )
    default_llm_provider: Literal["openai", "local"] = Field(
        "openai",
        validation_alias="DEFAULT_LLM_PROVIDER",
        description="openai or local; local while there is no key for the other",
    )
    local_llm_url: str = Field(
        "http://127.0.0.1:8080/v1",
        validation_alias="GUILDMESH_LOCAL_LLM_URL",
        description="OpenAI-compatible server of the local model, for the provider local",
    )
    llm_timeout_seconds: float = Field(
        60.0, gt=0, validation_alias="GUILDMESH_LLM_TIMEOUT_SECONDS", description="bound of one request to a language model"
    )
    max_concurrent_tasks: int | None = Field(
        None,
        ge=1,
        le=10_000,
        validation_alias="MAX_CONCURRENT_TASKS",
        description="tasks and steps that a worker process runs at once (requirement row 23); default 16 in development, 100 in"
        " production. A limit over all workers is a queue's max_running",
    )
    worker_runs: int = Field(
        500,
        ge=1,
        le=10_000,
        validation_alias="GUILDMESH_AGENT_WORKER_RUNS",
        description="runs of scenarios that a worker coordinates at once; they mostly wait",
    )
    agent_active_seconds: float = Field(
        300.0,
        ge=0,
        validation_alias="GUILDMESH_AGENT_ACTIVE_SECONDS",
        description="how long an agent counts in agent_active_count after its last step",
    )

    @field_validator("openai_api_key", "openai_base_url", "max_concurrent_tasks", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("default_llm_provider", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @property
    def worker_concurrency(self) -> int:
        """Tasks and steps that a worker process runs at once."""
        if self.max_concurrent_tasks is not None:
            return self.max_concurrent_tasks
        return 100 if self.profile == "production" else 16

    @property
    def llm_provider(self) -> Literal["openai", "local"]:
        """The provider that answers: the default one, or the local model while that one has neither a key nor a server."""
        if self.openai_api_key is None and self.openai_base_url is None:
            return "local"
        return self.default_llm_provider
