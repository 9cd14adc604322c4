"""Starts the run of a scenario."""

from __future__ import annotations

from typing import Generic, TypeVar

from services.agent.domain.documents import agent_to_document, scenario_to_document
from services.agent.domain.errors import RunTooLarge, ScenarioNotFound
from services.agent.domain.plan import check_plan
from services.agent.domain.ports import AgentRepository, Runs, ScenarioRepository
from services.agent.domain.work import CONTEXT_LIMIT, RUN_SCENARIO, NewTask
from services.common.json_values import JsonObject, size_of

DEFAULT_TIMEOUT_SECONDS = 300
# A coordinator that starts again does nothing twice, so a run outlives as many workers as the scheduler allows.
_ATTEMPTS = 20
TaskT = TypeVar("TaskT")


class RunScenario(Generic[TaskT]):
    """Creates the task of a run. It carries its own copy of scenario and agents: later changes do not reach a run."""

    def __init__(self, scenarios: ScenarioRepository, agents: AgentRepository, runs: Runs[TaskT]) -> None:
        self._scenarios = scenarios
        self._agents = agents
        self._runs = runs

    async def __call__(
        self, tenant_id: str, scenario_id: str, inputs: JsonObject, request_id: str, timeout_seconds: int | None
    ) -> TaskT:
        """The task of the run, as the scheduler tells it.

        Args:
            tenant_id: tenant of the caller.
            scenario_id: what to run.
            inputs: what the scenario's texts refer to as ${inputs.NAME}.
            request_id: makes the call safe to repeat; empty for none.
            timeout_seconds: bound of the whole run; None for 300.

        Raises:
            ScenarioNotFound: the tenant has no such scenario.
            ScenarioInvalid: an agent of the scenario is gone.
            RunTooLarge: scenario and inputs do not fit a task's context.
        """
        scenario = await self._scenarios.get(tenant_id, scenario_id)
        if scenario is None:
            raise ScenarioNotFound(scenario_id)
        agents = await self._agents.get_many(tenant_id, {step.agent_id for step in scenario.steps})
        check_plan(scenario, agents)
        context: JsonObject = {
            "scenario": scenario_to_document(scenario),
            "agents": {agent_id: agent_to_document(agent) for agent_id, agent in agents.items()},
            "inputs": inputs,
        }
        size = size_of(context)
        if size > CONTEXT_LIMIT:
            raise RunTooLarge(size, CONTEXT_LIMIT)
        task = NewTask(
            description=f"Run the scenario {scenario_id}",
            kind=RUN_SCENARIO,
            context=context,
            timeout_seconds=timeout_seconds or DEFAULT_TIMEOUT_SECONDS,
            max_attempts=_ATTEMPTS,
            labels={"scenario_id": scenario_id},
        )
        return await self._runs.start(task, request_id)
