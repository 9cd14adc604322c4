"""What a queue is: what its tasks have in common, and how many of them start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from services.scheduler.domain.errors import SharedQueue
from services.scheduler.domain.event_content import EventContent

EVERY_TENANT = "*"
"""the owner of a shared queue."""
DEFAULT_QUEUE_PRIORITY = 5
MOST_QUEUES = 1000
"""of a tenant; all of them are read at once."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A named line of tasks; the larger priority goes first (requirement row 1)."""

    queue: str
    priority: int = DEFAULT_QUEUE_PRIORITY
    retention_days: int | None = None
    """days that its tasks are kept after their end, 0 for ever; None for the default."""
    tenant_id: str = EVERY_TENANT
    """its owner."""
    dead_letter_retention_days: int | None = None
    """the same for tasks that FAILED; None for as long as any other."""
    max_attempts: int | None = None
    """of tasks that do not say; None for the default."""
    retry: str | None = None
    """a RetryPolicy, encoded, of tasks that do not say; None for the default."""
    rate_per_second: float | None = None
    """starts a second at most; None for no limit."""
    rate_burst: int | None = None
    """starts that may come at once; there when rate_per_second is."""
    max_running: int | None = None
    """tasks that run at once at most; None for no limit."""
    max_running_per_key: int | None = None
    """tasks with one concurrency key that run at once at most; None for no limit."""
    tenant_weights: Mapping[str, float] = field(default_factory=dict)
    """the share of a tenant in what starts; 1 for one that is not there. Empty unless it is shared."""
    event_content: EventContent | None = None
    """what of the texts of its tasks goes to Kafka; None for the default."""
    paused: bool = False
    """nothing of it starts."""
    limits_in_force: bool = True
    """whether `paused` and the limits hold for every start; told when it is read, and no part of what is kept."""
    version: int = 1
    """grows with each change."""
    create_time: datetime | None = None
    update_time: datetime | None = None
    max_attempts_spec: bytes = b""
    """max_attempts as it is added to the spec of a task; empty with None."""
    retry_spec: bytes = b""
    """the same of retry."""

    @property
    def shared(self) -> bool:
        """Whether it is every tenant's."""
        return self.tenant_id == EVERY_TENANT

    @property
    def limited(self) -> bool:
        """Whether anything keeps its tasks from starting, so that one replica decides for it."""
        limits = (self.max_running, self.max_running_per_key, self.rate_per_second)
        return self.paused or any(limit is not None for limit in limits)

    @property
    def etag(self) -> str:
        """Another one after each change, and for another queue of the same name."""
        made = 0 if self.create_time is None else int(self.create_time.timestamp() * 1_000_000)
        return f"{made:x}-{self.version}"


def check_change(queue: Queue, *, operator: bool) -> Queue:
    """The queue, for who is about to change it; raises SharedQueue for a shared one unless an operator asks."""
    if queue.shared and not operator:
        raise SharedQueue(queue.queue)
    return queue
