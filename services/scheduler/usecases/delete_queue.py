"""DeleteQueue: deletes a queue that has no tasks but ended ones."""

from __future__ import annotations

from services.scheduler.domain.ports import QueueStore
from services.scheduler.usecases.conflicts import past_conflicts
from services.scheduler.usecases.get_queue import GetQueue


class DeleteQueue:
    """Deletes queues."""

    def __init__(self, store: QueueStore) -> None:
        self._store = store
        self._get = GetQueue(store)

    async def execute(self, tenant_id: str, queue: str, etag: str, *, shared: bool, operator: bool) -> None:
        """Deletes it, with an etag only if nobody has changed it since.

        Raises:
            QueueNotFound, SharedQueue, EtagMismatch, QueueNotEmpty.
        """
        owner = (await self._get.to_change(tenant_id, queue, shared=shared, operator=operator)).tenant_id
        await past_conflicts(lambda: self._store.delete(owner, queue, etag))
