"""Lists scenarios."""

from __future__ import annotations

from collections.abc import Sequence

from services.agent.domain.ports import ScenarioRepository
from services.agent.domain.scenario import Scenario
from services.common import pagination


class ListScenarios:
    """Reads a page of a tenant's scenarios, by id (AIP-158)."""

    def __init__(self, scenarios: ScenarioRepository) -> None:
        self._scenarios = scenarios

    async def __call__(self, tenant_id: str, page_size: int, page_token: str) -> tuple[Sequence[Scenario], str]:
        """The page and the token of the next one, empty on the last; raises InvalidPageToken."""
        arguments = {"list": "scenarios", "tenant": tenant_id}
        cursor = pagination.decode_token(page_token, arguments)
        size = pagination.page_size(page_size)
        found = await self._scenarios.list(tenant_id, cursor[0] if cursor else "", size + 1)
        page = found[:size]
        more = len(found) > size
        return page, pagination.encode_token(arguments, [page[-1].scenario_id]) if more else ""
