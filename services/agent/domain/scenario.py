"""Scenarios: plans by which several agents work together (requirement row 17)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from services.common.json_values import JsonObject, JsonValue

ActionName = Literal["model", "tool", "remember", "recall"]


@dataclass(frozen=True, slots=True)
class ModelAction:
    """Asks the agent's language model."""

    prompt: str
    max_output_tokens: int = 0
    """bound of the answer; 0 means 256."""


@dataclass(frozen=True, slots=True)
class ToolAction:
    """Executes a tool."""

    tool_name: str
    arguments: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RememberAction:
    """Stores memories."""

    contents: tuple[str, ...]
    """texts with references; one that stands for a list of texts stores each."""


@dataclass(frozen=True, slots=True)
class RecallAction:
    """Searches memories."""

    query: str
    limit: int = 0
    """how many memories to give; 0 means 5."""


Action = ModelAction | ToolAction | RememberAction | RecallAction

ACTIONS: dict[ActionName, type[Action]] = {
    "model": ModelAction,
    "tool": ToolAction,
    "remember": RememberAction,
    "recall": RecallAction,
}


@dataclass(frozen=True, slots=True)
class Step:
    """The work of one agent in a scenario."""

    step_id: str
    agent_id: str
    action: Action
    needs: tuple[str, ...] = ()
    """steps that must be completed before."""

    @property
    def action_name(self) -> ActionName:
        """The name of the action in a scenario's document."""
        return next(name for name, kind in ACTIONS.items() if isinstance(self.action, kind))


@dataclass(frozen=True, slots=True)
class Scenario:
    """Steps with dependencies, each done by an agent, and what is made of their outputs."""

    scenario_id: str
    steps: tuple[Step, ...]
    display_name: str = ""
    result: JsonValue = None
    """text or object with references, made when all steps are done."""
    create_time: datetime | None = None
