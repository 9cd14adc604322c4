"""CountTasks: tasks of the whole mesh by queue and state."""

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
        self._counted: tuple[float, dict[tuple[str, State], int]] | None = None

    async def execute(self) -> dict[str, dict[str, int]]:
        """For each queue the number of its tasks by the plan's status word; every word is there."""
        async with self._lock:
            if self._counted is None or time.monotonic() - self._counted[0] > _FRESH_SECONDS:
                self._counted = (time.monotonic(), await self._batches.count())
        counts = self._counted[1]
        queues = sorted({queue for queue, _ in counts})
        return {queue: {state.status: counts.get((queue, state), 0) for state in State} for queue in queues}
