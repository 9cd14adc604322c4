"""The sweeper: ends what timed out and gives back what lost its worker."""

from __future__ import annotations

import asyncio
import random

import structlog

from services.common.errors import DomainError
from services.scheduler.domain.ports import TaskBatches

log = structlog.get_logger(__name__)


class Sweeper:
    """Sweeps every `seconds`; several replicas may, since rows that one handles are skipped by the others."""

    def __init__(self, batches: TaskBatches, seconds: float) -> None:
        self._batches = batches
        self._seconds = seconds

    async def run(self) -> None:
        """Sweeps until cancelled; survives the database being away."""
        while True:
            try:
                while await self._batches.sweep():
                    pass
                await self._batches.look_ahead()
                await self._batches.sum_up_counts()
            except DomainError as error:
                log.warning("sweep_failed", error=str(error))
            except Exception:
                log.exception("sweep_failed")
            await asyncio.sleep(self._seconds * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret
