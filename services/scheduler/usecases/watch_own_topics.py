"""WatchTasks where each tenant has topics of its own: what watches a tenant is there while somebody does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from services.scheduler.domain.event_topic_ports import EventTopic
from services.scheduler.domain.ports import TaskReader
from services.scheduler.domain.positions import Positions
from services.scheduler.domain.published import EventFilter
from services.scheduler.usecases.event_tail import EventTail
from services.scheduler.usecases.topic_pages import TopicPages
from services.scheduler.usecases.watch_tasks import Seen, WatchTasks

# Whoever comes back after a lost connection finds what watches still there.
_IDLE_SECONDS = 15.0


class WatchOwnTopics:
    """A WatchTasks for each tenant that somebody watches: each has a reader of the tenant's topic, and no other tenant's."""

    def __init__(self, topic_of: Callable[[str], EventTopic], reader: TaskReader, keep_alive: float) -> None:
        """Reads the topic that `topic_of` gives for a tenant; see WatchTasks for `keep_alive`."""
        self._topic_of = topic_of
        self._reader = reader
        self._keep_alive = keep_alive
        self._open: dict[str, _Open] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def execute(
        self, tenant_id: str, wanted: EventFilter, start: Positions | datetime | None, ends: float | None
    ) -> AsyncGenerator[Seen]:
        """As WatchTasks does; raises what it raises."""
        async with self._of(tenant_id) as watch, aclosing(watch.execute(tenant_id, wanted, start, ends)) as events:
            async for seen in events:
                yield seen

    async def close(self) -> None:
        """Reads no more."""
        for tenant_id in list(self._open):
            self._close(tenant_id)
        if self._closing:
            await asyncio.wait(self._closing)

    @asynccontextmanager
    async def _of(self, tenant_id: str) -> AsyncGenerator[WatchTasks]:
        if tenant_id not in self._open:
            topic = self._topic_of(tenant_id)
            tail, pages = EventTail(topic), TopicPages(topic)
            self._open[tenant_id] = _Open(tail, pages, WatchTasks(tail, pages, topic, self._reader, self._keep_alive))
        each = self._open[tenant_id]
        each.watchers += 1
        if each.timer is not None:
            each.timer.cancel()
            each.timer = None
        try:
            yield each.watch
        finally:
            each.watchers -= 1
            if not each.watchers:
                each.timer = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._close, tenant_id)

    def _close(self, tenant_id: str) -> None:
        each = self._open.pop(tenant_id)
        if each.timer is not None:
            each.timer.cancel()
        closing = asyncio.create_task(each.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


@dataclass(slots=True)
class _Open:
    """What watches one tenant."""

    tail: EventTail
    pages: TopicPages
    watch: WatchTasks
    watchers: int = 0
    timer: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        """Reads no more."""
        await self.tail.close()
        await self.pages.close()
