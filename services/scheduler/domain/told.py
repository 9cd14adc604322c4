"""Events that other services tell of."""

from __future__ import annotations

from dataclasses import dataclass

from services.scheduler.domain.events import ToolCalled, ToolReturned


@dataclass(frozen=True, slots=True)
class Told:
    """Something that happened in another service for an attempt of a task; its source and its id there are in the change."""

    tenant_id: str
    task_id: str
    attempt: int
    follows: str
    """id in the same source of the event that it is the end of, or empty."""
    actor: str
    change: ToolCalled | ToolReturned
