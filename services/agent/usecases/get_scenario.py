"""Gives a scenario."""

from __future__ import annotations

from services.agent.domain.errors import ScenarioNotFound
from services.agent.domain.ports import ScenarioRepository
from services.agent.domain.scenario import Scenario


class GetScenario:
    """Reads a scenario of a tenant."""

    def __init__(self, scenarios: ScenarioRepository) -> None:
        self._scenarios = scenarios

    async def __call__(self, tenant_id: str, scenario_id: str) -> Scenario:
        """The scenario; raises ScenarioNotFound when the tenant has none of this id."""
        scenario = await self._scenarios.get(tenant_id, scenario_id)
        if scenario is None:
            raise ScenarioNotFound(scenario_id)
        return scenario
