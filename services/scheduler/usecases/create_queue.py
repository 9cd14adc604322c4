"""CreateQueue: keeps a queue."""

from __future__ import annotations

from services.common.errors import InvalidRequest
from services.scheduler.domain.errors import SharedQueue
from services.scheduler.domain.event_content_ports import EventContents
from services.scheduler.domain.ports import QueueStore
from services.scheduler.domain.queue import Queue


class CreateQueue:
    """Creates queues."""

    def __init__(self, store: QueueStore, contents: EventContents) -> None:
        self._store = store
        self._contents = contents

    async def execute(self, queue: Queue, *, operator: bool) -> Queue:
        """The new queue; only an operator creates a shared one.

        Raises:
            SharedQueue, QueueExists, TooManyQueues, EventKeysNotSet; InvalidRequest for weights in a queue of one tenant.
        """
        if queue.shared and not operator:
            raise SharedQueue(queue.queue)
        check_weights(queue)
        self._contents.check(queue.event_content)
        return await self._store.create(queue)


def check_weights(queue: Queue) -> None:
    """Raises InvalidRequest for weights of tenants in a queue that has one."""
    if queue.tenant_weights and not queue.shared:
        raise InvalidRequest([("queue.tenant_weights", "must be empty: only a shared queue has several tenants")])
