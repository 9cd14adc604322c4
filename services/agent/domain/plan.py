"""Whether the steps of a scenario form a plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from services.agent.domain.agent import Agent
from services.agent.domain.documents import action_to_document
from services.agent.domain.errors import ScenarioInvalid
from services.agent.domain.references import InvalidReference, references_in
from services.agent.domain.scenario import Scenario, Step, ToolAction


def check_plan(scenario: Scenario, agents: Mapping[str, Agent]) -> None:
    """Checks that the steps of a scenario can be done one after another.

    Args:
        scenario: what to check.
        agents: the agents of the tenant by id, at least those that the steps name and that exist.

    Raises:
        ScenarioInvalid: a step is there twice, needs one that is not there or a circle of them, names an unknown agent or a
            tool that its agent may not call, or refers to a step that it does not need.
    """
    steps: dict[str, Step] = {}
    for step in scenario.steps:
        if step.step_id in steps:
            raise ScenarioInvalid(scenario.scenario_id, f"The step {step.step_id!r} is there twice; give each its own step_id.")
        steps[step.step_id] = step
    for step in scenario.steps:
        for need in step.needs:
            if need not in steps:
                raise ScenarioInvalid(
                    scenario.scenario_id,
                    f"The step {step.step_id!r} needs {need!r}, which is not there; the steps are: {', '.join(sorted(steps))}.",
                )
        _check_agent(scenario, step, agents.get(step.agent_id))
    circle = find_circle({step.step_id: step.needs for step in scenario.steps})
    if circle:
        raise ScenarioInvalid(scenario.scenario_id, f"The steps need each other in a circle: {' → '.join(circle)}.")
    for step in scenario.steps:
        _check_references(scenario, step, reachable(step, steps))
    _check_result(scenario, steps)


def find_circle(needs: Mapping[str, Collection[str]]) -> list[str]:
    """A circle of needs, its first step repeated at the end; empty when there is none."""
    done: set[str] = set()
    for start in needs:
        # Depth first with a stack of our own: a hundred steps in a row must not meet Python's recursion limit.
        path: dict[str, None] = {}
        stack: list[tuple[str, bool]] = [(start, False)]
        while stack:
            name, leaving = stack.pop()
            if leaving:
                path.popitem()
                done.add(name)
            elif name in path:
                names = list(path)
                return [*names[names.index(name) :], name]
            elif name not in done:
                path[name] = None
                stack.append((name, True))
                stack.extend((need, False) for need in needs[name])
    return []


def reachable(step: Step, steps: Mapping[str, Step]) -> set[str]:
    """All steps that are completed when `step` starts."""
    found: set[str] = set()
    waiting = list(step.needs)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(steps[name].needs)
    return found


def _check_agent(scenario: Scenario, step: Step, agent: Agent | None) -> None:
    if agent is None:
        raise ScenarioInvalid(
            scenario.scenario_id,
            f"The step {step.step_id!r} names the unknown agent {step.agent_id!r}; create it with POST /v1/agents.",
        )
    if isinstance(step.action, ToolAction) and step.action.tool_name not in agent.tools:
        may = f"it may call: {', '.join(agent.tools)}" if agent.tools else "it may call none"
        raise ScenarioInvalid(
            scenario.scenario_id,
            f"The agent {agent.agent_id!r} of the step {step.step_id!r} may not call the tool {step.action.tool_name!r}; {may}.",
        )


def _check_references(scenario: Scenario, step: Step, before: Collection[str]) -> None:
    try:
        for reference in references_in(action_to_document(step.action)):
            if reference.root == "steps" and reference.path[0] not in before:
                raise ScenarioInvalid(
                    scenario.scenario_id,
                    f"The step {step.step_id!r} refers to ${{{reference.text}}} and does not need {reference.path[0]!r}; "
                    "add it to needs.",
                )
    except InvalidReference as error:
        raise ScenarioInvalid(scenario.scenario_id, f"In the step {step.step_id!r}: {error}") from error


def _check_result(scenario: Scenario, steps: Collection[str]) -> None:
    try:
        for reference in references_in(scenario.result):
            if reference.root == "steps" and reference.path[0] not in steps:
                raise ScenarioInvalid(
                    scenario.scenario_id,
                    f"The result refers to ${{{reference.text}}}, and there is no step {reference.path[0]!r}; "
                    f"the steps are: {', '.join(sorted(steps))}.",
                )
    except InvalidReference as error:
        raise ScenarioInvalid(scenario.scenario_id, f"In the result: {error}") from error
