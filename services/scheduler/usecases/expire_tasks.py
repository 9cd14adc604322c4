"""Storage that does not grow: makes room for what will end, and lets go of what was kept long enough."""

from __future__ import annotations

import asyncio
import random
import time

import structlog

from services.common.errors import Aborted, DomainError
from services.scheduler.domain.ports import Progress, TaskExpiry, TaskPartitions

log = structlog.get_logger(__name__)

_SHORTEST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5


class ExpireTasks:
    """Goes through it every `seconds`; several replicas may, since what one does the others leave alone."""

    def __init__(self, partitions: TaskPartitions, expiry: TaskExpiry, seconds: float) -> None:
        self._partitions = partitions
        self._expiry = expiry
        self._seconds = seconds

    async def run(self) -> None:
        """Goes on until cancelled; survives the database and Kafka being away."""
        while True:
            for part in (self._add, self._expire):
                try:
                    await part()
                except Aborted:
                    # A long reader has the table. Nothing depends on the moment.
                    log.info("partitions_in_use")
                except DomainError as error:
                    log.warning("expiry_failed", error=str(error))
                except Exception:
                    log.exception("expiry_failed")
            await asyncio.sleep(self._seconds * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret

    async def _add(self) -> None:
        added = await self._partitions.add()
        if added:
            log.info("partitions_added", number=added)

    async def _expire(self) -> None:
        """Goes on while there is something to do; ends early when Kafka takes its time, for partitions to be made meanwhile."""
        pause, ends = _SHORTEST_PAUSE, time.monotonic() + self._seconds
        while True:
            progress = max(await self._expiry.expire_rest(), await self._expiry.expire_partition())
            if progress is Progress.WAITING:
                if time.monotonic() > ends:
                    return
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            if progress is Progress.NOTHING and await self._partitions.detach() is None:
                return
            pause, ends = _SHORTEST_PAUSE, time.monotonic() + self._seconds
