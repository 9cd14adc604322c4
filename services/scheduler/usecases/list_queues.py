"""ListQueues: the queues, highest priority first (requirement row 1)."""

from __future__ import annotations

from collections.abc import Sequence

from services.scheduler.domain.ports import QueueReader
from services.scheduler.domain.queue import Queue


class ListQueues:
    """Lists queues."""

    def __init__(self, reader: QueueReader) -> None:
        self._reader = reader

    async def execute(self, tenant_id: str) -> Sequence[Queue]:
        """All queues of the tenant."""
        return await self._reader.queues(tenant_id)
