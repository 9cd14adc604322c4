"""The queues by name, remembered by their owners: they hardly ever change."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import replace

from services.scheduler.domain.errors import QueueNotFound
from services.scheduler.domain.ports import QueueOwners
from services.scheduler.domain.queue import EVERY_TENANT, Queue
from services.scheduler.domain.task import DEFAULT_RETENTION_DAYS, NewTask, Times
from services.scheduler.domain.wake import Wake

_FRESH_SECONDS = 60.0


class Queues:
    """Gives queues; reads those of an owner again when they have changed, when a name is unknown, or after a minute.

    The shared ones, of which there may be many, are so remembered once and not for each tenant.
    """

    def __init__(self, reader: QueueOwners, retention_days: int = DEFAULT_RETENTION_DAYS) -> None:
        """A queue that does not say how long its tasks are kept keeps them for `retention_days`, 0 for ever."""
        self._reader = reader
        self._retention_days = retention_days
        self._known: dict[str, tuple[float, dict[str, Queue]]] = {}
        self._owners: tuple[float, Collection[str]] = (0.0, ())
        """tenants that have queues of their own: most have none, and are not asked for any."""
        self._changes = 0

    async def of(self, tenant_id: str, queue: str) -> Queue:
        """The queue of this name, with its retention; raises QueueNotFound."""
        # What is not there as far as is known is looked for once more.
        for since in (time.monotonic() - _FRESH_SECONDS, math.inf):
            # A tenant's own takes the place of the shared one.
            own = await self._of_owner(tenant_id, since) if tenant_id in await self._all_owners(since) else {}
            if queue in own:
                return own[queue]
            shared = await self._of_owner(EVERY_TENANT, since)
            if queue in shared:
                return shared[queue]
        raise QueueNotFound(queue, {*own, *shared})

    async def _of_owner(self, owner: str, since: float) -> dict[str, Queue]:
        """An owner's queues by name, read after `since` by the monotonic clock."""
        read_at, known = self._known.get(owner, (0.0, {}))
        if read_at < since:
            begun, changes = time.monotonic(), self._changes
            known = {entry.queue: self._complete(entry) for entry in await self._reader.owned(owner)}
            if len(self._known) > 10_000:
                self._known.clear()
            # What changed while it was read may have been read as it was before.
            if changes == self._changes:
                self._known[owner] = (begun, known)
        return known

    async def _all_owners(self, since: float) -> Collection[str]:
        read_at, owners = self._owners
        if read_at < since:
            begun, changes = time.monotonic(), self._changes
            owners = await self._reader.owners()
            if changes == self._changes:
                self._owners = (begun, owners)
        return owners

    def woken(self, wake: Wake) -> None:
        """Forgets what has changed."""
        if wake.queues is None:
            self._changes += 1
            self._known.clear()
            self._owners = (0.0, ())
        elif wake.queues:
            self._changes += 1
            self._owners = (0.0, ())
            for owner in wake.queues:
                self._known.pop(owner, None)

    def _complete(self, queue: Queue) -> Queue:
        return queue if queue.retention_days is not None else replace(queue, retention_days=self._retention_days)


def put_in(task: NewTask, queue: Queue) -> None:
    """Gives a new task, once, what its queue says and it does not itself; the queue comes from `Queues.of`."""
    task.queue_priority = queue.priority
    task.retention_days = queue.retention_days or 0
    task.event_content = queue.event_content
    if queue.max_attempts is not None and not task.own_max_attempts:
        task.max_attempts = queue.max_attempts
        task.spec += queue.max_attempts_spec
    if queue.retry is not None and (task.times is None or task.times.retry is None):
        task.times = replace(task.times or Times(), retry=queue.retry)
        task.spec += queue.retry_spec
