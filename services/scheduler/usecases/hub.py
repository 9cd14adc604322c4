"""Who waits for what in this process, and who is woken by a commit, here or in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from services.scheduler.domain.event_content_ports import EventContents
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import StoredEvent
from services.scheduler.domain.wake import Wake, bucket_of

Key = TypeVar("Key")
_MOST_HELD_BYTES = 1 << 18


class Watcher:
    """Someone who waits for a task's events."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        """set when there may be more events."""
        self.ended: Run | None = None
        """how the task has ended, once it has by a commit of this process."""
        self.look = False
        """whether something may have happened that was not handed over."""
        self._fresh: list[StoredEvent] = []
        self._bytes = 0
        self._left_out = False

    def put(self, event: StoredEvent, run: Run) -> None:
        """Holds an event of a commit of this process; a slow watcher reads the rest from the tables."""
        if run.state.ended:
            self.ended = run
        if self._bytes < _MOST_HELD_BYTES:
            self._fresh.append(event)
            self._bytes += len(event.value)
        else:
            self._left_out = True

    def take(self, after: int) -> tuple[list[StoredEvent], bool]:
        """The events that are held and come right after number `after`, and whether there are later ones to read."""
        fresh, self._fresh, self._bytes = self._fresh, [], 0
        more, self._left_out = self._left_out, False
        following = []
        for event in fresh:
            if event.number == after + 1:
                following.append(event)
                after += 1
            elif event.number > after:
                more = True
        return following, more


class Hub:
    """Wakes watchers, leases and workers. The woken read the tables, so a needless wake does no harm.

    Only watchers are handed what this process has just committed, because reading it again would be most of their work.
    """

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.decides = False
        """whether this process decides what starts of queues with limits."""
        self.contents: EventContents | None = None
        """what of users' texts this process puts on Kafka; None for all."""
        self.watched: dict[tuple[str, str], set[Watcher]] = {}
        """the watchers of each task, by tenant and id."""
        self._buckets: dict[int, set[Watcher]] = {}
        self._on_wake: list[Callable[[Wake], None]] = []

    def listen(self, callback: Callable[[Wake], None]) -> None:
        """Has `callback` called with every wake."""
        self._on_wake.append(callback)

    @contextmanager
    def watching(self, tenant_id: str, task_id: str) -> Iterator[Watcher]:
        """A watcher of the task; subscribe first, then read."""
        bucket, key, watcher = bucket_of(task_id), (tenant_id, task_id), Watcher()
        self._buckets.setdefault(bucket, set()).add(watcher)
        self.watched.setdefault(key, set()).add(watcher)
        try:
            yield watcher
        finally:
            _forget(self._buckets, bucket, watcher)
            _forget(self.watched, key, watcher)

    def wake(self, wake: Wake) -> None:
        """Wakes everyone the change concerns."""
        for key, event, run in wake.events:
            for watcher in self.watched.get(key, ()):
                watcher.put(event, run)
        others = wake.origin != self.origin
        for bucket in list(self._buckets) if wake.buckets is None else wake.buckets & self._buckets.keys():
            for watcher in self._buckets[bucket]:
                watcher.look = watcher.look or others
                watcher.changed.set()
        for callback in self._on_wake:
            callback(wake)

    def notified(self, wake: Wake) -> None:
        """Wakes for a notification, unless this process made the change and has woken its own."""
        if wake.origin != self.origin:
            self.wake(wake)


def _forget(watchers: dict[Key, set[Watcher]], key: Key, watcher: Watcher) -> None:
    mine = watchers[key]
    mine.discard(watcher)
    if not mine:
        del watchers[key]
