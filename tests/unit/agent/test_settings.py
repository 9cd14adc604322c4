from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from services.agent.settings import AgentSettings


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 16),
        ({"GUILDMESH_PROFILE": "production"}, 100),
        ({"GUILDMESH_PROFILE": "production", "MAX_CONCURRENT_TASKS": "7"}, 7),
        ({"MAX_CONCURRENT_TASKS": ""}, 16),
    ],
)
def test_a_worker_runs_a_hundred_tasks_at_once_in_production(
    environment: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GUILDMESH_PROFILE", "MAX_CONCURRENT_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert settings().concurrency == expected


@pytest.mark.parametrize("value", ["0", "1001", "many"])
def test_a_number_that_no_worker_can_run_is_refused_by_name(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_CONCURRENT_TASKS", value)
    with pytest.raises(ValidationError, match="MAX_CONCURRENT_TASKS"):
        settings()


def settings() -> AgentSettings:
    without_file: dict[str, Any] = {"_env_file": None}
    return AgentSettings(**without_file)
