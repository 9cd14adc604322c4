"""What the replica that decides remembers of a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from services.scheduler.domain.limits import QueueKey


class LaneKey(NamedTuple):
    """What waits in one order: the tasks of one kind of one tenant in one queue."""

    queue_tenant: str
    """tenant of the queue, * for a queue of all."""
    queue: str
    tenant_id: str
    kind: str

    @property
    def of_queue(self) -> QueueKey:
        """The queue."""
        return self.queue_tenant, self.queue


Place = tuple[int, int]
"""-priority and position: the smaller one is the earlier place."""


@dataclass(slots=True, eq=False)
class Head:
    """A task that waits or runs."""

    task_id: str
    lane: LaneKey
    key: str | None
    """its concurrency key."""
    place: Place
    attempt: int
    """the last one that was started."""
    started: float = 0.0
    """when that was, by this process's clock."""
    charged: float = 0.0
    """slot-seconds that its tenant was charged for it."""
    elsewhere: bool = False
    """whether it was found running and was not decided on."""
    uncommitted: bool = False
    """whether it starts with its creation, which is under way: the table does not have it yet."""

    def __lt__(self, other: Head) -> bool:
        return self.place < other.place


@dataclass(frozen=True, slots=True)
class Seen:
    """A task as a statement saw it."""

    head: Head
    running: bool
    waiting: bool
    seconds: float = 0.0
    """since its last start."""


@dataclass(frozen=True, slots=True)
class Page:
    """The next tasks that wait in a lane."""

    lane: LaneKey
    heads: list[Head]
    more: bool
    """whether others wait behind them."""
