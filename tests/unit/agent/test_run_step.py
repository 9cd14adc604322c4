"""One step of a scenario, done by its agent."""

from __future__ import annotations

from typing import cast

import pytest

from services.agent.domain.active_agents import ActiveAgents
from services.agent.domain.agent import Agent
from services.agent.domain.documents import agent_to_document
from services.agent.domain.work import Attempt, ToolOutcome, WorkFailed
from services.agent.usecases.run_step import RunStep
from services.common.json_values import JsonObject
from tests.support.agent_doubles import InMemoryMemories, InMemoryModel, InMemoryTools

CODER = Agent("coder", "coder", instructions="You write code.", model="big", tools=("python",))


class Team:
    """The use case and what it works with."""

    def __init__(self) -> None:
        self.model, self.tools, self.memories = InMemoryModel(), InMemoryTools(), InMemoryMemories()
        self.counts: list[tuple[str, int]] = []
        self.active = ActiveAgents(lambda agent_type, count: self.counts.append((agent_type, count)))
        self.run = RunStep(self.model, self.tools, self.memories, self.active)

    async def do(self, task_id: str = "task-1", **action: JsonObject) -> JsonObject:
        context: JsonObject = {
            "scenario_id": "plan",
            "step_id": "one",
            "agent": agent_to_document(CODER),
            **action,
        }
        return await self.run("acme", Attempt(task_id, 1, "one of plan", context, 300, 299.0))


@pytest.fixture
def team() -> Team:
    return Team()


async def test_a_model_step_asks_with_the_agents_instructions_and_model(team: Team) -> None:
    output = await team.do(model={"prompt": "Sum it up.", "max_output_tokens": 0})
    assert output == {
        "text": "You said: Sum it up.",
        "provider": "memory",
        "model": "big",
        "input_tokens": 10,
        "output_tokens": 4,
    }
    assert [message.content for message in team.model.asked[0]] == ["You write code.", "Sum it up."]


async def test_a_tool_step_executes_under_the_key_of_task_and_step(team: Team) -> None:
    output = await team.do(tool={"tool_name": "python", "arguments": {"code": "result = 3"}})
    assert output == {"success": True, "output": "", "exit_code": 0, "result": {"total": 3}}
    assert team.tools.ledger == {("task-1", "one"): {"code": "result = 3"}}


async def test_a_tool_that_fails_fails_the_step_for_good(team: Team) -> None:
    team.tools.outcome = ToolOutcome(False, "", 1, "ZeroDivisionError: division by zero", None)
    with pytest.raises(WorkFailed, match="ZeroDivisionError") as failed:
        await team.do(tool={"tool_name": "python", "arguments": {}})
    assert (failed.value.reason, failed.value.retryable) == ("TOOL_FAILED", False)


async def test_a_tool_that_the_agent_does_not_have_is_refused(team: Team) -> None:
    with pytest.raises(WorkFailed) as failed:
        await team.do(tool={"tool_name": "shell", "arguments": {}})
    assert failed.value.reason == "TOOL_NOT_ALLOWED"
    assert team.tools.ledger == {}


async def test_what_is_remembered_twice_is_kept_once_and_recalled_by_the_team(team: Team) -> None:
    first = await team.do(remember={"contents": ["The goal is 10 %.", "The year is 2026."]})
    again = await team.do("task-2", remember={"contents": ["The goal is 10 %."]})
    assert again["memory_ids"] == cast(list[str], first["memory_ids"])[:1]
    recalled = cast(list[dict[str, str]], (await team.do(recall={"query": "goal", "limit": 0}))["memories"])
    assert [memory["content"] for memory in recalled] == ["The goal is 10 %.", "The year is 2026."]


@pytest.mark.parametrize(
    "context",
    [{}, {"agent": "coder"}, {"agent": None, "model": {}}, {"agent": {"agent_id": "x"}}, {"scenario_id": 1, "agent": []}],
)
async def test_a_task_that_is_no_step_of_a_run_is_refused(team: Team, context: JsonObject) -> None:
    with pytest.raises(WorkFailed) as failed:
        await team.run("acme", Attempt("task-1", 1, "mine", context, 300, 299.0))
    assert failed.value.reason == "STEP_INVALID"


async def test_an_agent_is_active_while_its_step_runs(team: Team) -> None:
    await team.do(model={"prompt": "Go.", "max_output_tokens": 5})
    assert team.counts[0] == ("coder", 1)


def test_an_agent_counts_until_it_has_been_idle_for_the_lingering_time() -> None:
    now = 0.0
    counts: dict[str, int] = {}
    active = ActiveAgents(counts.__setitem__, 300, lambda: now)
    with active.working(("acme", "a"), "coder"), active.working(("acme", "b"), "coder"):
        assert counts == {"coder": 2}
    now = 299.0
    active.refresh()
    assert counts == {"coder": 2}
    now = 300.0
    active.refresh()
    assert counts == {"coder": 0}
