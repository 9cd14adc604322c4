"""WatchTask and StreamTaskEvents: a task's events in order, from any number on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from services.common.errors import Unavailable
from services.common.failpoints import fail_point
from services.common.ids import is_id
from services.scheduler.domain.errors import TaskNotFound
from services.scheduler.domain.events import LAST_TYPES
from services.scheduler.domain.ports import TaskReader
from services.scheduler.domain.task import StoredEvent
from services.scheduler.usecases.hub import Hub

_PAGE = 200


class WatchTask:
    """Streams events out of the log, those of this process's own commits without reading them again.

    A slow watcher holds one page and little else, and loses nothing: what it was not handed it reads.
    """

    def __init__(self, reader: TaskReader, hub: Hub, poll_seconds: float = 5.0) -> None:
        """Reads again after `poll_seconds` without a wake-up: the safety net for a lost notification."""
        self._reader = reader
        self._hub = hub
        self._poll_seconds = poll_seconds

    async def execute(self, tenant_id: str, task_id: str, after: int) -> AsyncGenerator[StoredEvent]:
        """Gives the events with larger numbers than `after`, and ends after the task's last one; raises TaskNotFound."""
        if not is_id(task_id):
            raise TaskNotFound(task_id)
        seen = False
        with self._hub.watching(tenant_id, task_id.lower()) as watcher:
            while True:
                watcher.changed.clear()
                events, more = watcher.take(after) if seen else ([], False)
                ended = False
                if not events:
                    try:
                        state, newest, found = await self._reader.events(tenant_id, task_id, after, _PAGE)
                    except Unavailable:
                        # A stream that has begun outlives a restart of the database.
                        if not seen:
                            raise
                        await asyncio.sleep(0.5)
                        continue
                    if state is None:
                        raise TaskNotFound(task_id)
                    seen, events = True, list(found)
                    more = bool(events) and after + len(events) < newest
                    ended = state.ended and after + len(events) >= newest
                await fail_point("scheduler.watch.before_send")
                for event in events:
                    yield event
                    after = event.number
                    if event.type in LAST_TYPES:
                        return
                if more:
                    continue
                if ended:
                    return
                try:
                    async with asyncio.timeout(self._poll_seconds):
                        await watcher.changed.wait()
                except TimeoutError:
                    continue
