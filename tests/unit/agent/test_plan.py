"""Whether the steps of a scenario form a plan."""

from __future__ import annotations

import pytest

from services.agent.domain.agent import Agent
from services.agent.domain.errors import ScenarioInvalid
from services.agent.domain.plan import check_plan, find_circle
from services.agent.domain.scenario import ModelAction, Scenario, Step, ToolAction
from services.common.json_values import JsonValue

AGENTS = {"coder": Agent("coder", "coder", tools=("python",)), "writer": Agent("writer", "writer")}


def step(step_id: str, *needs: str, prompt: str = "go", agent_id: str = "writer") -> Step:
    return Step(step_id, agent_id, ModelAction(prompt), needs)


def refusal(*steps: Step, result: JsonValue = None) -> str:
    with pytest.raises(ScenarioInvalid) as error:
        check_plan(Scenario("plan", steps, result=result), AGENTS)
    return error.value.message


def test_steps_in_any_order_form_a_plan() -> None:
    steps = (step("c", "a", "b", prompt="${steps.a.text}"), step("a"), step("b", "a"))
    check_plan(Scenario("plan", steps, result={"text": "${steps.c.text}"}), AGENTS)


def test_a_circle_is_named_with_arrows() -> None:
    message = refusal(step("compute", "report"), step("report", "check"), step("check", "compute"), step("other"))
    assert message == "The steps need each other in a circle: compute → report → check → compute."


def test_a_step_that_needs_itself_is_a_circle() -> None:
    assert "report → report" in refusal(step("report", "report"))


def test_a_hundred_thousand_steps_in_a_row_do_not_exhaust_the_stack() -> None:
    needs = {str(number): [str(number + 1)] for number in range(100_000)} | {"100000": []}
    assert find_circle(needs) == []


def test_a_diamond_is_no_circle() -> None:
    assert find_circle({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}) == []


def test_an_unknown_need_is_told_with_the_steps_there_are() -> None:
    assert refusal(step("a", "x"), step("b")) == "The step 'a' needs 'x', which is not there; the steps are: a, b."


def test_an_unknown_agent_is_told() -> None:
    assert "unknown agent 'painter'" in refusal(step("a", agent_id="painter"))


def test_a_step_that_is_there_twice_is_told() -> None:
    assert "'a' is there twice" in refusal(step("a"), step("a"))


def test_a_tool_that_the_agent_may_not_call_is_told() -> None:
    check_plan(Scenario("plan", (Step("a", "coder", ToolAction("python")),)), AGENTS)
    assert "may not call the tool 'python'" in refusal(Step("a", "writer", ToolAction("python")))


def test_a_reference_to_a_step_that_is_not_needed_is_told() -> None:
    assert "add it to needs" in refusal(step("a"), step("b", prompt="${steps.a.text}"))


def test_a_reference_to_a_step_needed_further_back_is_allowed() -> None:
    steps = (step("a"), step("b", "a"), step("c", "b", prompt="${steps.a.text} ${inputs.any}"))
    check_plan(Scenario("plan", steps), AGENTS)


def test_a_badly_written_reference_is_told_with_its_step() -> None:
    assert refusal(step("a", prompt="costs ${price}")).startswith("In the step 'a': ${price} is not a reference")


def test_a_result_that_refers_to_an_unknown_step_is_told() -> None:
    assert "there is no step 'b'" in refusal(step("a"), result=["${steps.b.text}"])
