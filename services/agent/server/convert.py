"""The contract's messages and the domain's types."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.agent.v1 import agent_pb2 as pb

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
from services.common.structs import json_to_struct, json_to_value, struct_to_json, value_to_json


def agent_from_proto(message: pb.Agent) -> Agent:
    """The agent to create; output-only fields are left out."""
    return Agent(
        agent_id=message.agent_id,
        display_name=message.display_name,
        agent_type=message.agent_type,
        instructions=message.instructions,
        model=message.model,
        queue=message.queue,
        tools=tuple(message.tools),
    )


def agent_to_proto(agent: Agent) -> pb.Agent:
    """The agent as its message."""
    return pb.Agent(
        agent_id=agent.agent_id,
        display_name=agent.display_name,
        agent_type=agent.agent_type,
        instructions=agent.instructions,
        model=agent.model,
        queue=agent.queue,
        tools=agent.tools,
        create_time=_time(agent.create_time),
    )


def scenario_from_proto(message: pb.Scenario) -> Scenario:
    """The scenario to create; output-only fields are left out."""
    return Scenario(
        scenario_id=message.scenario_id,
        display_name=message.display_name,
        steps=tuple(Step(step.step_id, step.agent_id, _action_from_proto(step), tuple(step.needs)) for step in message.steps),
        result=value_to_json(message.result),
    )


def scenario_to_proto(scenario: Scenario) -> pb.Scenario:
    """The scenario as its message."""
    return pb.Scenario(
        scenario_id=scenario.scenario_id,
        display_name=scenario.display_name,
        steps=[_step_to_proto(step) for step in scenario.steps],
        result=None if scenario.result is None else json_to_value(scenario.result),
        create_time=_time(scenario.create_time),
    )


def _action_from_proto(step: pb.ScenarioStep) -> Action:
    match step.WhichOneof("action"):
        case "model":
            return ModelAction(step.model.prompt, step.model.max_output_tokens)
        case "tool":
            return ToolAction(step.tool.tool_name, struct_to_json(step.tool.arguments))
        case "remember":
            return RememberAction(tuple(step.remember.contents))
        case _:
            return RecallAction(step.recall.query, step.recall.limit)


def _step_to_proto(step: Step) -> pb.ScenarioStep:
    message = pb.ScenarioStep(step_id=step.step_id, agent_id=step.agent_id, needs=step.needs)
    match step.action:
        case ModelAction(prompt, max_output_tokens):
            message.model.CopyFrom(pb.ModelAction(prompt=prompt, max_output_tokens=max_output_tokens))
        case ToolAction(tool_name, arguments):
            message.tool.CopyFrom(pb.ToolAction(tool_name=tool_name, arguments=json_to_struct(arguments)))
        case RememberAction(contents):
            message.remember.CopyFrom(pb.RememberAction(contents=contents))
        case RecallAction(query, limit):
            message.recall.CopyFrom(pb.RecallAction(query=query, limit=limit))
    return message


def _time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
