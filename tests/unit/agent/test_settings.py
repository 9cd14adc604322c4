"""Settings of the agent's processes."""

from __future__ import annotations

from typing import Any

import pytest

from services.agent.settings import AgentSettings


@pytest.mark.parametrize(
    ("profile", "given", "concurrency"),
    [
        ("development", None, 16),
        ("production", None, 100),
        ("production", "", 100),
        ("production", 250, 250),
        ("development", 1, 1),
    ],
)
def test_a_worker_runs_a_hundred_tasks_at_once_in_production_unless_told_otherwise(
    profile: str, given: Any, concurrency: int
) -> None:
    settings = AgentSettings(profile=profile, max_concurrent_tasks=given)  # type: ignore[arg-type]
    assert settings.worker_concurrency == concurrency


def test_a_worker_that_may_run_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        AgentSettings(max_concurrent_tasks=0)
