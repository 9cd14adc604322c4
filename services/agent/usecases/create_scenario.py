"""Creates a scenario."""

from __future__ import annotations

from services.agent.domain.plan import check_plan
from services.agent.domain.ports import AgentRepository, ScenarioRepository
from services.agent.domain.scenario import Scenario


class CreateScenario:
    """Keeps a new scenario of a tenant when its steps form a plan."""

    def __init__(self, scenarios: ScenarioRepository, agents: AgentRepository) -> None:
        self._scenarios = scenarios
        self._agents = agents

    async def __call__(self, tenant_id: str, scenario: Scenario) -> Scenario:
        """The scenario with its time.

        Raises:
            ScenarioInvalid: the steps do not form a plan.
            ScenarioAlreadyExists: the id is taken.
        """
        check_plan(scenario, await self._agents.get_many(tenant_id, {step.agent_id for step in scenario.steps}))
        return await self._scenarios.add(tenant_id, scenario)
