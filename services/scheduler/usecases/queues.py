"""The queues by name, remembered: they hardly ever change."""

from __future__ import annotations

import time

from services.scheduler.domain.errors import QueueNotFound
from services.scheduler.domain.ports import TaskReader

_FRESH_SECONDS = 60.0


class QueuePriorities:
    """Gives the priority of a queue; reads the queues of a tenant again when a name is unknown or after a minute."""

    def __init__(self, reader: TaskReader) -> None:
        self._reader = reader
        self._known: dict[str, tuple[float, dict[str, int]]] = {}

    async def of(self, tenant_id: str, queue: str) -> int:
        """The priority of `queue`; raises QueueNotFound."""
        read_at, known = self._known.get(tenant_id, (0.0, {}))
        if queue not in known or time.monotonic() - read_at > _FRESH_SECONDS:
            known = {entry.queue: entry.priority for entry in await self._reader.queues(tenant_id)}
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[tenant_id] = (time.monotonic(), known)
        if queue not in known:
            raise QueueNotFound(queue, known)
        return known[queue]
