"""The sweep of payloads: what nothing uses goes, object first, then row."""

from __future__ import annotations

import asyncio
import random

import structlog

from services.common.errors import DomainError
from services.common.failpoints import fail_point
from services.scheduler.domain.payload import object_key
from services.scheduler.domain.payload_ports import Objects, PayloadMarks

log = structlog.get_logger(__name__)


class SweepPayloads:
    """Sweeps every `seconds`; several replicas may."""

    def __init__(self, marks: PayloadMarks, objects: Objects, seconds: float) -> None:
        self._marks = marks
        self._objects = objects
        self._seconds = seconds

    async def run(self) -> None:
        """Sweeps until cancelled; survives database and object store being away."""
        while True:
            try:
                while await self.sweep():
                    pass
            except DomainError as error:
                log.warning("payload_sweep_failed", error=str(error))
            except Exception:
                log.exception("payload_sweep_failed")
            await asyncio.sleep(self._seconds * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret

    async def sweep(self) -> int:
        """Deletes some of what nothing uses; gives how many."""
        marked = await self._marks.mark()
        if not marked:
            return 0
        await fail_point("scheduler.sweep_payloads.before_objects")
        for tenant_id, payload_id in marked:
            await self._objects.delete(object_key(tenant_id, payload_id))
        await fail_point("scheduler.sweep_payloads.after_objects")
        await self._marks.forget(marked)
        return len(marked)
