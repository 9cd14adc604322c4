"""Tells parents of their subtasks: soon after a commit of this process, and every now and then for what another one left."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import structlog

from services.common.errors import DomainError
from services.scheduler.domain.ports import TaskBatches
from services.scheduler.domain.wake import Wake

log = structlog.get_logger(__name__)

# What follows one subtask follows at once: a parent's row is written once for many.
_GATHER_SECONDS = 0.02


class TellParents:
    """Tells until it is cancelled; several replicas may, since a change is taken by one."""

    def __init__(self, batches: TaskBatches, poll_seconds: float) -> None:
        self._batches = batches
        self._poll_seconds = poll_seconds
        self._wanted = asyncio.Event()

    def woken(self, wake: Wake) -> None:
        """Hears of a commit."""
        if wake.parents:
            self._wanted.set()

    async def run(self) -> None:
        """Tells until cancelled; survives the database being away."""
        while True:
            self._wanted.clear()
            try:
                while await self._batches.tell_parents():
                    pass
            except DomainError as error:
                log.warning("parents_not_told", error=str(error))
            except Exception:
                log.exception("parents_not_told")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self._wanted.wait()
                await asyncio.sleep(_GATHER_SECONDS)
