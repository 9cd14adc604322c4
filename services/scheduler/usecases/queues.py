"""The queues by name, remembered: they hardly ever change."""

from __future__ import annotations

import time
from dataclasses import replace

from services.scheduler.domain.errors import QueueNotFound
from services.scheduler.domain.ports import TaskReader
from services.scheduler.domain.task import DEFAULT_RETENTION_DAYS, NewTask, Queue

_FRESH_SECONDS = 60.0


class Queues:
    """Gives queues; reads those of a tenant again when a name is unknown or after a minute."""

    def __init__(self, reader: TaskReader, retention_days: int = DEFAULT_RETENTION_DAYS) -> None:
        """A queue that does not say how long its tasks are kept keeps them for `retention_days`, 0 for ever."""
        self._reader = reader
        self._retention_days = retention_days
        self._known: dict[str, tuple[float, dict[str, Queue]]] = {}

    async def of(self, tenant_id: str, queue: str) -> Queue:
        """The queue of this name, with its retention; raises QueueNotFound."""
        read_at, known = self._known.get(tenant_id, (0.0, {}))
        if queue not in known or time.monotonic() - read_at > _FRESH_SECONDS:
            known = {entry.queue: self._complete(entry) for entry in await self._reader.queues(tenant_id)}
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[tenant_id] = (time.monotonic(), known)
        if queue not in known:
            raise QueueNotFound(queue, known)
        return known[queue]

    def _complete(self, queue: Queue) -> Queue:
        return queue if queue.retention_days is not None else replace(queue, retention_days=self._retention_days)


def put_in(task: NewTask, queue: Queue) -> None:
    """Gives a new task what its queue says; the queue comes from `Queues.of`."""
    task.queue_priority = queue.priority
    task.retention_days = queue.retention_days or 0
