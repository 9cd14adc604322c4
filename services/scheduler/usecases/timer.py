"""The timer: SCHEDULED tasks become PENDING when their moment has come."""

from __future__ import annotations

import asyncio
import random

import structlog

from services.common.errors import DomainError
from services.scheduler.domain.ports import TaskBatches

log = structlog.get_logger(__name__)

_SHORTEST = 0.02


class Timer:
    """Looks when the next task is due, at least every `seconds`; several replicas may, and share what is due at one moment."""

    def __init__(self, batches: TaskBatches, seconds: float) -> None:
        """A task whose delay is shorter than `seconds` may start so much later, since nobody tells of it."""
        self._batches = batches
        self._seconds = seconds

    async def run(self) -> None:
        """Goes on until cancelled; survives the database being away."""
        while True:
            wait = self._seconds * random.uniform(0.8, 1.2)  # noqa: S311 - not a secret
            try:
                left = await self._batches.make_ready()
                if left is not None:
                    # What is overdue and was not taken is in another replica's hands, which may yet fail.
                    wait = min(wait, max(left.total_seconds(), _SHORTEST))
            except DomainError as error:
                log.warning("timer_failed", error=str(error))
            except Exception:
                log.exception("timer_failed")
            await asyncio.sleep(wait)
