"""How many tasks that have not ended each tenant has, by queue and state.

No index is in the order of tenants, queues or states, since each task would pay for it: one pass over all open tasks counts for
every tenant, so what it costs does not grow with how many ask.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.common.db.engine_role import EngineDriver
from services.scheduler.domain.task import State

_SCAN = "SET LOCAL enable_seqscan = on"
_COUNT = "SELECT tenant_id, queue, state, count(*) FROM tasks GROUP BY tenant_id, queue, state"


class OpenTasks:
    """Counts the tasks that have not ended."""

    def __init__(self, database: EngineDriver) -> None:
        self._database = database

    async def count(self) -> Mapping[str, Mapping[tuple[str, State], int]]:
        """For each tenant that has any, their number by queue and state."""
        async with self._database.transaction(first=_SCAN) as connection:
            rows = await connection.fetch(_COUNT)
        counts: dict[str, dict[tuple[str, State], int]] = {}
        for tenant_id, queue, state, number in rows:
            counts.setdefault(tenant_id, {})[queue, State(state)] = number
        return counts
