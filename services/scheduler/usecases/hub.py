"""Who waits for what in this process, and who is woken by a commit, here or in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.scheduler.domain.wake import Wake, bucket_of


class Hub:
    """Wakes watchers, leases and workers. It carries no data: the woken read the tables, so a needless wake does no harm."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self._watchers: dict[int, set[asyncio.Event]] = {}
        self._on_wake: list[Callable[[Wake], None]] = []

    def listen(self, callback: Callable[[Wake], None]) -> None:
        """Has `callback` called with every wake."""
        self._on_wake.append(callback)

    @contextmanager
    def watching(self, task_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when the task may have changed; subscribe first, then read."""
        bucket, event = bucket_of(task_id), asyncio.Event()
        watchers = self._watchers.setdefault(bucket, set())
        watchers.add(event)
        try:
            yield event
        finally:
            watchers.discard(event)
            if not watchers and self._watchers.get(bucket) is watchers:
                del self._watchers[bucket]

    def wake(self, wake: Wake) -> None:
        """Wakes everyone the change concerns."""
        for bucket in list(self._watchers) if wake.buckets is None else wake.buckets & self._watchers.keys():
            for event in self._watchers[bucket]:
                event.set()
        for callback in self._on_wake:
            callback(wake)

    def notified(self, wake: Wake) -> None:
        """Wakes for a notification, unless this process made the change and has woken its own."""
        if wake.origin != self.origin:
            self.wake(wake)
