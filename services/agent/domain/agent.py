"""Agents."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Agent:
    """A member of a team: a role with instructions for the language model and the tools it may use."""

    agent_id: str
    agent_type: str
    """label of the metric agent_active_count."""
    display_name: str = ""
    instructions: str = ""
    """the system prompt."""
    model: str = ""
    """model to use; empty for the provider's default."""
    queue: str = ""
    """queue that the agent's steps wait in; empty means "default"."""
    tools: tuple[str, ...] = ()
    """names of the tools the agent may call."""
    create_time: datetime | None = None
