"""Who is woken in this process when a commit is through."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from services.scheduler.domain.event_content_ports import EventContents
from services.scheduler.domain.wake import Wake


class Waker(Protocol):
    """Wakes the waiting of this process; the other processes hear the commit's NOTIFY."""

    origin: str
    """name of this process in notifications, so that it does not wake its own twice."""

    decides: bool
    """whether this process decides what starts of queues with limits."""

    contents: EventContents | None
    """what of users' texts this process puts on Kafka; None for all."""

    @property
    def watched(self) -> Collection[tuple[str, str]]:
        """The tasks (tenant and id) whose events someone waits for in this process."""

    def listen(self, callback: Callable[[Wake], None]) -> None:
        """Has `callback` called with every wake, of this process's commits and of others'."""

    def wake(self, wake: Wake) -> None:
        """Tells the waiting where to look."""
