"""PauseQueue and ResumeQueue: whether the tasks of a queue start."""

from __future__ import annotations

from dataclasses import replace

from services.scheduler.domain.ports import QueueStore
from services.scheduler.domain.queue import Queue
from services.scheduler.usecases.get_queue import GetQueue


class PauseQueue:
    """Pauses queues, or has paused ones go on."""

    def __init__(self, store: QueueStore, *, paused: bool) -> None:
        """What it makes of them."""
        self._store = store
        self._get = GetQueue(store)
        self._paused = paused

    async def execute(self, tenant_id: str, queue: str, *, shared: bool, operator: bool) -> Queue:
        """The queue, paused or not; raises QueueNotFound or SharedQueue."""
        owner = (await self._get.to_change(tenant_id, queue, shared=shared, operator=operator)).tenant_id
        return await self._store.change(owner, queue, lambda found: replace(found, paused=self._paused))
