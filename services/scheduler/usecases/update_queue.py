"""UpdateQueue: changes what somebody may change of a queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from services.scheduler.domain.errors import EtagMismatch
from services.scheduler.domain.event_content_ports import EventContents
from services.scheduler.domain.ports import QueueStore
from services.scheduler.domain.queue import Queue
from services.scheduler.usecases.create_queue import check_weights
from services.scheduler.usecases.get_queue import GetQueue


class UpdateQueue:
    """Updates queues."""

    def __init__(self, store: QueueStore, contents: EventContents) -> None:
        self._store = store
        self._contents = contents
        self._get = GetQueue(store)

    async def execute(
        self, tenant_id: str, queue: str, values: Mapping[str, Any], etag: str, *, shared: bool, operator: bool
    ) -> Queue:
        """The queue with new values by the names of its attributes.

        Raises:
            QueueNotFound, SharedQueue, EtagMismatch, EventKeysNotSet; InvalidRequest for weights in a queue of one tenant.
        """

        def change(found: Queue) -> Queue:
            if etag not in ("", found.etag):
                raise EtagMismatch("queue", queue=queue)
            changed = replace(found, **values)
            check_weights(changed)
            if "event_content" in values:
                self._contents.check(changed.event_content)
            return changed

        owner = (await self._get.to_change(tenant_id, queue, shared=shared, operator=operator)).tenant_id
        changed = await self._store.change(owner, queue, change)
        if "event_content" in values:
            await self._contents.read()
        return changed
