"""Runs of tasks, as the tests of the scheduler want them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from services.common.ids import new_id
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import State

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def a_run(**fields: Any) -> Run:
    """A run that waits, but for `fields`."""
    values: dict[str, Any] = {
        "tenant_id": "acme", "task_id": new_id(), "shard": 0, "state": State.PENDING, "queue": "default", "kind": "k",
        "priority": 5, "attempt": 0, "max_attempts": 5, "timeout_ms": 10_000, "next_event_number": 1, "has_children": False,
        "parent_task_id": None, "traceparent": "", "available_at": NOW,
    }  # fmt: skip
    return Run(**(values | fields))
