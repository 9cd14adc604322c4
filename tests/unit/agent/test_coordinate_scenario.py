"""The coordinator of a run, over subtasks in memory (requirement row 17)."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.agent.domain.agent import Agent
from services.agent.domain.documents import agent_to_document, scenario_to_document
from services.agent.domain.scenario import ModelAction, RememberAction, Scenario, Step, ToolAction
from services.agent.domain.work import Attempt, EndedTask, NewTask, WorkFailed
from services.agent.usecases.coordinate_scenario import CoordinateScenario, step_request_id
from services.common.errors import NotFound
from services.common.json_values import JsonObject, JsonValue
from tests.support.agent_doubles import InMemorySubtasks

AGENTS = {
    "coder": Agent("coder", "coder", queue="code", tools=("python",)),
    "analyst": Agent("analyst", "analyst", queue="analysis"),
}
REPORT = Scenario(
    "report",
    (
        Step("write", "analyst", ModelAction("Explain ${steps.sum.result.total} of ${inputs.what}."), ("sum", "keep")),
        Step("sum", "coder", ToolAction("python", {"code": "…", "input": "${inputs.numbers}"})),
        Step("keep", "analyst", RememberAction(("${inputs.facts}", "about ${inputs.what}"))),
    ),
    result={"total": "${steps.sum.result.total}", "text": "Report: ${steps.write.text}"},
)
INPUTS: JsonObject = {"what": "apples", "numbers": [1, 2], "facts": ["one", "two"]}
OUTPUTS: dict[str, JsonObject] = {
    "sum": {"success": True, "output": "", "exit_code": 0, "result": {"total": 3}},
    "keep": {"memory_ids": ["m1", "m2", "m3"]},
    "write": {"text": "It is three.", "provider": "p", "model": "m", "input_tokens": 20, "output_tokens": 4},
}


def attempt(scenario: Scenario = REPORT, number: int = 1, progress: list[float] | None = None) -> Attempt:
    context: JsonObject = {
        "scenario": scenario_to_document(scenario),
        "agents": {agent_id: agent_to_document(agent) for agent_id, agent in AGENTS.items()},
        "inputs": INPUTS,
    }
    report = (lambda share: None) if progress is None else progress.append
    return Attempt("run-1", number, "Run it", context, 120, 110.0, report)


async def work(task: NewTask) -> EndedTask:
    step_id = task.labels["step_id"]
    return EndedTask(step_id, "completed", OUTPUTS[step_id])


def created(subtasks: InMemorySubtasks) -> list[str]:
    return [task.labels["step_id"] for task in subtasks.created.values()]


async def test_steps_run_when_what_they_need_is_done_and_get_its_output() -> None:
    subtasks = InMemorySubtasks(work)
    progress: list[float] = []
    result = await CoordinateScenario(subtasks)(attempt(progress=progress))
    assert created(subtasks) == ["sum", "keep", "write"]
    tasks = {task.labels["step_id"]: task for task in subtasks.created.values()}
    assert tasks["sum"].context["tool"] == {"tool_name": "python", "arguments": {"code": "…", "input": [1, 2]}}
    assert tasks["keep"].context["remember"] == {"contents": ["one", "two", "about apples"]}
    assert tasks["write"].context["model"] == {"prompt": "Explain 3 of apples.", "max_output_tokens": 0}
    assert (tasks["sum"].queue, tasks["sum"].kind, tasks["sum"].parent_task_id) == ("code", "agent.step", "run-1")
    assert result == {
        "success": True,
        "scenario_id": "report",
        "result": {"total": 3, "text": "Report: It is three."},
        "steps": {
            "write": {"task_id": step_request_id("run-1", "write"), "agent_id": "analyst", "action": "model"},
            "sum": {"task_id": step_request_id("run-1", "sum"), "agent_id": "coder", "action": "tool"},
            "keep": {"task_id": step_request_id("run-1", "keep"), "agent_id": "analyst", "action": "remember"},
        },
        "model_calls": 1,
        "input_tokens": 20,
        "output_tokens": 4,
    }
    assert progress[-1] == 1


async def test_a_coordinator_that_starts_again_asks_for_the_same_subtasks() -> None:
    stuck, at_the_end = asyncio.Event(), asyncio.Event()

    async def stuck_at_the_end(task: NewTask) -> EndedTask:
        if task.labels["step_id"] == "write":
            at_the_end.set()
            await stuck.wait()
        return await work(task)

    subtasks = InMemorySubtasks(stuck_at_the_end)
    first = asyncio.create_task(CoordinateScenario(subtasks)(attempt()))
    await at_the_end.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert subtasks.cancelled == []
    again = asyncio.create_task(CoordinateScenario(subtasks)(attempt(number=2)))
    await asyncio.sleep(0)
    stuck.set()
    assert (await again)["success"] is True
    assert created(subtasks) == ["sum", "keep", "write"]


async def test_a_step_that_fails_fails_the_run_by_its_name_and_cancels_what_still_runs() -> None:
    never = asyncio.Event()

    async def failing(task: NewTask) -> EndedTask:
        if task.labels["step_id"] == "keep":
            await never.wait()
        return EndedTask("t", "failed", None, "TOOL_FAILED", "division by zero")

    subtasks = InMemorySubtasks(failing)
    with pytest.raises(WorkFailed) as failed:
        await CoordinateScenario(subtasks)(attempt())
    assert failed.value.reason == "STEP_FAILED"
    assert failed.value.message == "The step 'sum' of the agent 'coder' failed: TOOL_FAILED: division by zero"
    assert subtasks.cancelled == ["keep"]
    assert created(subtasks) == ["sum", "keep"]


async def test_a_step_that_was_cancelled_fails_the_run() -> None:
    async def cancelled(task: NewTask) -> EndedTask:
        return EndedTask("t", "cancelled")

    with pytest.raises(WorkFailed, match=r"STEP_CANCELLED: The step '(sum|keep)'"):
        await CoordinateScenario(InMemorySubtasks(cancelled))(attempt())


async def test_a_step_that_the_scheduler_refuses_fails_the_run_with_its_reason() -> None:
    class QueueGone(NotFound):
        reason = "QUEUE_NOT_FOUND"

    class Refusing(InMemorySubtasks):
        async def create(self, task: NewTask, request_id: str, parent_attempt: int) -> str:
            raise QueueGone("No queue 'code'.")

    with pytest.raises(WorkFailed, match=r"QUEUE_NOT_FOUND: The step '(sum|keep)' could not start: No queue"):
        await CoordinateScenario(Refusing(work))(attempt())


async def test_a_reference_to_what_an_output_lacks_fails_the_run_with_what_there_is() -> None:
    async def other(task: NewTask) -> EndedTask:
        return EndedTask("t", "completed", {"success": True, "result": {"sum": 3}})

    with pytest.raises(WorkFailed, match=r"REFERENCE_INVALID: In the step 'write'.*has sum, not 'total'"):
        await CoordinateScenario(InMemorySubtasks(other))(attempt())


async def test_a_scenario_without_a_result_gives_what_its_last_steps_gave() -> None:
    scenario = Scenario("report", REPORT.steps)
    result = await CoordinateScenario(InMemorySubtasks(work))(attempt(scenario))
    assert result["result"] == {"write": OUTPUTS["write"]}


async def test_a_result_larger_than_a_task_may_have_is_told() -> None:
    async def large(task: NewTask) -> EndedTask:
        return EndedTask("t", "completed", "x" * (20 << 20))

    steps = (Step("a", "analyst", ModelAction("go")), Step("b", "analyst", ModelAction("go")))
    scenario = Scenario("report", steps, result=["${steps.a}", "${steps.b}"])

    async def fake(task: NewTask) -> EndedTask:
        ended = await large(task)
        return EndedTask("t", "completed", {**OUTPUTS["write"], "text": cast(str, ended.result)})

    with pytest.raises(WorkFailed, match="RESULT_TOO_LARGE"):
        await CoordinateScenario(InMemorySubtasks(fake))(attempt(scenario))


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"scenario": None, "agents": {}, "inputs": {}},
        {"scenario": scenario_to_document(REPORT), "agents": {}, "inputs": {}},
        {
            "scenario": {**scenario_to_document(REPORT), "steps": [{"step_id": "a"}]},
            "agents": {},
            "inputs": {},
        },
    ],
)
async def test_a_task_that_is_no_run_is_refused(context: dict[str, Any]) -> None:
    task = Attempt("run-1", 1, "mine", cast(JsonObject, context), 120, 100.0)

    async def nothing(task: NewTask) -> EndedTask:
        raise AssertionError

    with pytest.raises(WorkFailed, match="RUN_INVALID"):
        await CoordinateScenario(InMemorySubtasks(nothing))(task)


def test_a_steps_request_id_fits_the_contract_and_differs_by_run_and_step() -> None:
    ids: set[JsonValue] = {step_request_id(run, step) for run in ("r1", "r2") for step in ("s" * 63, "t")}
    assert len(ids) == 4
    assert all(len(str(it)) <= 64 for it in ids)
