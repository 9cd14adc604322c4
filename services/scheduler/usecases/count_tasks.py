"""CountTasks: tasks of the whole mesh by state."""

from __future__ import annotations

import asyncio
import time

from services.scheduler.domain.ports import TaskBatches
from services.scheduler.domain.task import State

_FRESH_SECONDS = 2.0


class CountTasks:
    """Counts, at most once in two seconds however often it is asked."""

    def __init__(self, batches: TaskBatches) -> None:
        self._batches = batches
        self._lock = asyncio.Lock()
        self._counted: tuple[float, dict[State, int]] | None = None

    async def execute(self) -> dict[str, int]:
        """The number of tasks by the plan's status word; every word is there."""
        async with self._lock:
            if self._counted is None or time.monotonic() - self._counted[0] > _FRESH_SECONDS:
                self._counted = (time.monotonic(), await self._batches.count())
        return {state.status: self._counted[1].get(state, 0) for state in State}
