"""GetQueue: a queue that the caller's tasks may wait in."""

from __future__ import annotations

from services.scheduler.domain.errors import QueueNotFound
from services.scheduler.domain.ports import QueueStore
from services.scheduler.domain.queue import Queue, check_change


class GetQueue:
    """Gives one queue."""

    def __init__(self, store: QueueStore) -> None:
        self._store = store

    async def execute(self, tenant_id: str, queue: str, *, shared: bool) -> Queue:
        """The tenant's own queue or else the shared one, with `shared` that one in any case; raises QueueNotFound."""
        found = await self._store.get(tenant_id, queue, shared=shared)
        if found is None:
            raise QueueNotFound(queue, [known.queue for known in await self._store.queues(tenant_id)])
        return found

    async def to_change(self, tenant_id: str, queue: str, *, shared: bool, operator: bool) -> Queue:
        """The same for who is about to change it; raises QueueNotFound, or SharedQueue unless an operator asks."""
        return check_change(await self.execute(tenant_id, queue, shared=shared), operator=operator)
