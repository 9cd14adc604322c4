"""The queues by name, remembered: they hardly ever change."""

from __future__ import annotations

import time
from dataclasses import replace

from services.scheduler.domain.errors import QueueNotFound
from services.scheduler.domain.ports import QueueReader
from services.scheduler.domain.queue import EVERY_TENANT, Queue
from services.scheduler.domain.task import DEFAULT_RETENTION_DAYS, NewTask, Times
from services.scheduler.domain.wake import Wake

_FRESH_SECONDS = 60.0


class Queues:
    """Gives queues; reads those of a tenant again when they have changed, when a name is unknown, or after a minute."""

    def __init__(self, reader: QueueReader, retention_days: int = DEFAULT_RETENTION_DAYS) -> None:
        """A queue that does not say how long its tasks are kept keeps them for `retention_days`, 0 for ever."""
        self._reader = reader
        self._retention_days = retention_days
        self._known: dict[str, tuple[float, dict[str, Queue]]] = {}
        self._changes = 0

    async def of(self, tenant_id: str, queue: str) -> Queue:
        """The queue of this name, with its retention; raises QueueNotFound."""
        read_at, known = self._known.get(tenant_id, (0.0, {}))
        if queue not in known or time.monotonic() - read_at > _FRESH_SECONDS:
            begun, changes = time.monotonic(), self._changes
            known = {entry.queue: self._complete(entry) for entry in await self._reader.queues(tenant_id)}
            if len(self._known) > 10_000:
                self._known.clear()
            # What changed while it was read may have been read as it was before.
            if changes == self._changes:
                self._known[tenant_id] = (begun, known)
        if queue not in known:
            raise QueueNotFound(queue, known)
        return known[queue]

    def woken(self, wake: Wake) -> None:
        """Forgets what has changed."""
        if wake.queues is None or EVERY_TENANT in wake.queues:
            self._changes += 1
            self._known.clear()
        elif wake.queues:
            self._changes += 1
            for tenant_id in wake.queues:
                self._known.pop(tenant_id, None)

    def _complete(self, queue: Queue) -> Queue:
        return queue if queue.retention_days is not None else replace(queue, retention_days=self._retention_days)


def put_in(task: NewTask, queue: Queue) -> None:
    """Gives a new task, once, what its queue says and it does not itself; the queue comes from `Queues.of`."""
    task.queue_priority = queue.priority
    task.retention_days = queue.retention_days or 0
    if queue.max_attempts is not None and not task.own_max_attempts:
        task.max_attempts = queue.max_attempts
        task.spec += queue.max_attempts_spec
    if queue.retry is not None and (task.times is None or task.times.retry is None):
        task.times = replace(task.times or Times(), retry=queue.retry)
        task.spec += queue.retry_spec
