"""Agents and scenarios as JSON documents: how they are stored, and how a run carries its own copy.

The shape is the REST one, so that what a person reads in a task's context is what was sent to create it.
"""

from __future__ import annotations

from typing import cast

from services.agent.domain.agent import Agent
from services.agent.domain.scenario import (
    Action,
    ModelAction,
    RecallAction,
    RememberAction,
    Scenario,
    Step,
    ToolAction,
)
from services.common.json_values import JsonObject, JsonValue


def agent_to_document(agent: Agent) -> JsonObject:
    """The agent, without its time."""
    return {
        "agent_id": agent.agent_id,
        "display_name": agent.display_name,
        "agent_type": agent.agent_type,
        "instructions": agent.instructions,
        "model": agent.model,
        "queue": agent.queue,
        "tools": list(agent.tools),
    }


def agent_from_document(document: JsonObject) -> Agent:
    """The agent of a document that agent_to_document made; raises KeyError when a field is missing."""
    return Agent(
        agent_id=str(document["agent_id"]),
        display_name=str(document["display_name"]),
        agent_type=str(document["agent_type"]),
        instructions=str(document["instructions"]),
        model=str(document["model"]),
        queue=str(document["queue"]),
        tools=_texts(document["tools"]),
    )


def action_to_document(action: Action) -> JsonObject:
    """The action's fields."""
    match action:
        case ModelAction(prompt, max_output_tokens):
            return {"prompt": prompt, "max_output_tokens": max_output_tokens}
        case ToolAction(tool_name, arguments):
            return {"tool_name": tool_name, "arguments": arguments}
        case RememberAction(contents):
            return {"contents": list(contents)}
        case RecallAction(query, limit):
            return {"query": query, "limit": limit}


def step_to_document(step: Step) -> JsonObject:
    """The step; its action stands under the action's name."""
    return {
        "step_id": step.step_id,
        "agent_id": step.agent_id,
        "needs": list(step.needs),
        step.action_name: action_to_document(step.action),
    }


def step_from_document(document: JsonObject) -> Step:
    """The step of a document that step_to_document made; raises KeyError when a field or the action is missing."""
    return Step(
        step_id=str(document["step_id"]),
        agent_id=str(document["agent_id"]),
        needs=_texts(document["needs"]),
        action=_action_from_document(document),
    )


def scenario_to_document(scenario: Scenario) -> JsonObject:
    """The scenario, without its time."""
    return {
        "scenario_id": scenario.scenario_id,
        "display_name": scenario.display_name,
        "steps": [step_to_document(step) for step in scenario.steps],
        "result": scenario.result,
    }


def scenario_from_document(document: JsonObject) -> Scenario:
    """The scenario of a document that scenario_to_document made; raises KeyError when a field is missing."""
    return Scenario(
        scenario_id=str(document["scenario_id"]),
        display_name=str(document["display_name"]),
        steps=tuple(step_from_document(cast(JsonObject, step)) for step in cast(list[JsonValue], document["steps"])),
        result=document["result"],
    )


def _action_from_document(document: JsonObject) -> Action:
    if "model" in document:
        model = cast(JsonObject, document["model"])
        return ModelAction(str(model["prompt"]), _number(model["max_output_tokens"]))
    if "tool" in document:
        tool = cast(JsonObject, document["tool"])
        return ToolAction(str(tool["tool_name"]), cast(JsonObject, tool["arguments"]))
    if "remember" in document:
        return RememberAction(_texts(cast(JsonObject, document["remember"])["contents"]))
    recall = cast(JsonObject, document["recall"])
    return RecallAction(str(recall["query"]), _number(recall["limit"]))


def _texts(value: JsonValue) -> tuple[str, ...]:
    return tuple(str(item) for item in cast(list[JsonValue], value))


def _number(value: JsonValue) -> int:
    return int(cast(float, value))
