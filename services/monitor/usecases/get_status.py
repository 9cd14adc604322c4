"""GET /status (requirement row 18)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from services.monitor.domain.health import HealthReport
from services.monitor.domain.ports import Health, TaskCounts

COUNT_TIMEOUT = 1.5
"""Seconds the scheduler may take to count; the status is told without the counts then."""


@dataclass(frozen=True, slots=True)
class Status:
    """How the mesh is."""

    report: HealthReport
    tasks: Mapping[str, int]
    """by status; empty when the scheduler does not answer."""
    counted: bool


class GetStatus:
    """Tells how the mesh is, whatever is down."""

    def __init__(self, health: Health, counts: TaskCounts) -> None:
        self._health = health
        self._counts = counts

    async def __call__(self) -> Status:
        """The health of every service and the number of tasks by status."""
        report, tasks = await asyncio.gather(self._health.report(), self._count())
        return Status(report, tasks or {}, tasks is not None)

    async def _count(self) -> Mapping[str, int] | None:
        try:
            async with asyncio.timeout(COUNT_TIMEOUT):
                return await self._counts.count()
        except Exception:
            # A status that fails because a part is down would be of no use; `counted` says that the numbers are missing.
            return None
