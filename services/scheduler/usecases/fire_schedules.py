"""Starts the runs of schedules when they are due."""

from __future__ import annotations

import asyncio

import structlog

from services.common.errors import DomainError
from services.scheduler.domain.ports import ScheduleBatches

log = structlog.get_logger(__name__)

_AFTER_OTHERS = 0.05
_LONGEST_BACK_OFF = 5.0


class FireSchedules:
    """Wakes when the next run is due; several replicas may, since what one has in hand the others leave alone.

    A schedule that was created or changed meanwhile is noticed within `poll_seconds`.
    """

    def __init__(self, batches: ScheduleBatches, poll_seconds: float) -> None:
        self._batches = batches
        self._poll_seconds = poll_seconds

    async def run(self) -> None:
        """Goes on until cancelled; survives the database being away."""
        failures = 0
        while True:
            try:
                firing = await self._batches.fire()
            except DomainError as error:
                log.warning("schedules_failed", error=str(error))
            except Exception:
                log.exception("schedules_failed")
            else:
                failures = 0
                if not firing.schedules:
                    await asyncio.sleep(self._pause(firing.pause.total_seconds() if firing.pause is not None else None))
                continue
            failures += 1
            await asyncio.sleep(min(self._poll_seconds * 2 ** min(failures - 1, 10), _LONGEST_BACK_OFF))

    def _pause(self, until_due: float | None) -> float:
        if until_due is None:
            return self._poll_seconds
        # What is due and was not to be had is in another replica's hands.
        return min(until_due if until_due > 0 else _AFTER_OTHERS, self._poll_seconds)
