"""CountQueuedTasks for a tenant: its tasks that have not ended, by queue and state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from services.scheduler.domain.ports import OpenTaskCounts
from services.scheduler.domain.task import State

_FRESH_SECONDS = 2.0
_REST = 20.0
"""times as long as the counting took it is left alone: so it takes a twentieth of one connection's time at most."""
OPEN = tuple(state for state in State if not state.ended)
"""the states that are counted."""


class CountOwnTasks:
    """Counts for all tenants at once, and then answers each from it for a while."""

    def __init__(self, store: OpenTaskCounts) -> None:
        self._store = store
        self._lock = asyncio.Lock()
        self._counts: Mapping[str, Mapping[tuple[str, State], int]] = {}
        self._fresh_until = 0.0

    async def execute(self, tenant_id: str) -> dict[str, dict[str, int]]:
        """For each queue in which the tenant has tasks that have not ended, their number by the plan's status word."""
        async with self._lock:
            begun = time.monotonic()
            if begun >= self._fresh_until:
                self._counts = await self._store.count()
                now = time.monotonic()
                self._fresh_until = now + max(_FRESH_SECONDS, _REST * (now - begun))
        counts = self._counts.get(tenant_id, {})
        queues = sorted({queue for queue, _ in counts})
        return {queue: {state.status: counts.get((queue, state), 0) for state in OPEN} for queue in queues}
