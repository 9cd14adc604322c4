"""What a task is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING

from services.scheduler.domain.event_content import EventContent

if TYPE_CHECKING:
    from services.scheduler.domain.dependency import Dependency, Outcome
    from services.scheduler.domain.run import Run

DEFAULT_QUEUE = "default"
DEFAULT_KIND = "agent.task"
DEFAULT_PRIORITY = 5
DEFAULT_TIMEOUT_MS = 300_000
DEFAULT_MAX_ATTEMPTS = 5
DEFAULT_RETENTION_DAYS = 30
RETENTION_CLASSES = (0, 1, 7, 30, 90)
"""days that a task may be kept after its end; 0 for ever."""


class State(IntEnum):
    """Where a task is in its life; the numbers are those of guildmesh.scheduler.v1.TaskState and of the database."""

    PENDING = 1
    RUNNING = 2
    COMPLETED = 3
    FAILED = 4
    CANCELLED = 5
    SCHEDULED = 6
    WAITING = 7
    BLOCKED = 8

    @property
    def ended(self) -> bool:
        """Whether nothing can change the task any more."""
        return State.COMPLETED <= self <= State.CANCELLED

    @property
    def status(self) -> str:
        """The plan's word (requirement row 16)."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Times:
    """When a task may start and must have ended, as far as it says so; most do not."""

    schedule_time: datetime | None = None
    """the earliest moment of its start."""
    delay_ms: int | None = None
    """from its creation to that moment; at most one of the two is there."""
    start_timeout_ms: int | None = None
    """how long it may wait for its first start from then on."""
    attempt_timeout_ms: int | None = None
    """how long one attempt may take."""
    heartbeat_timeout_ms: int | None = None
    """how long an attempt may go without telling progress or a step."""
    deadline: datetime | None = None
    """when it must have ended."""
    total_timeout_ms: int | None = None
    """from its creation to that moment; at most one of the two is there."""
    retry: str | None = None
    """a RetryPolicy, encoded; None for the default."""

    @property
    def may_be_later(self) -> bool:
        """Whether the task may have to wait for the moment of its start."""
        return self.schedule_time is not None or bool(self.delay_ms)

    def start_at(self, now: datetime) -> datetime | None:
        """When a task that is created now becomes PENDING; None for at once."""
        moment = now + timedelta(milliseconds=self.delay_ms) if self.delay_ms is not None else self.schedule_time
        return moment if moment is not None and moment > now else None

    def end_by(self, now: datetime) -> datetime | None:
        """When a task that is created now must have ended."""
        return now + timedelta(milliseconds=self.total_timeout_ms) if self.total_timeout_ms is not None else self.deadline

    def start_by(self, now: datetime) -> datetime | None:
        """When a task that is created now fails unless it has started."""
        end = self.end_by(now)
        if self.start_timeout_ms is None:
            return end
        start = (self.start_at(now) or now) + timedelta(milliseconds=self.start_timeout_ms)
        return start if end is None else min(start, end)


# The classes below are made for every task that passes, and a frozen dataclass takes three times as long to make.
@dataclass(slots=True)
class NewTask:
    """A task to create, complete with its defaults."""

    task_id: str
    tenant_id: str
    created_by: str
    spec: bytes
    """guildmesh.scheduler.v1.Task as it was asked for, with its defaults and without its context, serialized."""
    description: str
    queue: str = DEFAULT_QUEUE
    kind: str = DEFAULT_KIND
    context: bytes | None = None
    """google.protobuf.Struct, serialized with sorted keys, or None."""
    priority: int = DEFAULT_PRIORITY
    timeout_ms: int = DEFAULT_TIMEOUT_MS
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    own_max_attempts: bool = True
    """whether it says so itself; else its queue may."""
    parent_task_id: str | None = None
    parent_attempt: int = 0
    """attempt of the parent that creates this subtask; 0 for a caller that does not run the parent."""
    labels: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    payload: bytes = b""
    """all that the caller chose, serialized with sorted keys; only with a request id."""
    traceparent: str = ""
    queue_priority: int = DEFAULT_PRIORITY
    retention_days: int = DEFAULT_RETENTION_DAYS
    """days that it is kept after its end; 0 for ever."""
    times: Times | None = None
    """None where it says nothing of them."""
    run: Run | None = None
    """the task's changing part, once it is created."""
    worker_id: str | None = None
    """the worker that starts the task in the moment it is created; None when it waits for one."""
    dependencies: tuple[Dependency, ...] = ()
    """the tasks that it waits for."""
    has_dependants: bool = False
    """whether tasks that are created with it wait for it."""
    concurrency_key: str | None = None
    context_payload: str | None = None
    """id of the payload that is its context, instead of `context`."""
    context_sha256: str = ""
    """of that payload, in hexadecimal, once it is looked up."""
    queue_tenant: str | None = None
    """as in Run, given when it is created; before that when its start was decided on."""
    event_content: EventContent | None = None
    """what its queue says; None for the default."""
    event_key_id: str | None = None
    """the key of its creator, given when it is created."""

    def payload_hash(self) -> bytes:
        """SHA-256 of all that the caller chose: two requests with the same hash ask for the same task."""
        digest = hashlib.sha256(self.payload)
        digest.update(b"no context" if self.context is None else self.context)
        if self.context_payload is not None:
            digest.update((self.context_sha256 or self.context_payload).encode())
        return digest.digest()


@dataclass(slots=True)
class Task:
    """A task as its tenant sees it."""

    task_id: str
    tenant_id: str
    spec: bytes
    """guildmesh.scheduler.v1.Task as it was created, without its context, serialized."""
    create_time: datetime
    context: bytes | None = None
    """google.protobuf.Struct, serialized; None when there is none or it was not asked for."""
    traceparent: str = ""
    state: State = State.PENDING
    attempt: int = 0
    progress: float = 0.0
    last_event_number: int = 1
    start_time: datetime | None = None
    finish_time: datetime | None = None
    result: bytes | None = None
    """google.protobuf.Value, serialized, or a payload (services.scheduler.domain.payload)."""
    error_reason: str | None = None
    error_message: str | None = None
    next_start_time: datetime | None = None
    """when a SCHEDULED task becomes PENDING."""
    waiting_for: WaitingFor | None = None
    """what a WAITING task waits for."""
    blocked_by: int = 0
    """how many dependencies a BLOCKED task waits for."""


@dataclass(frozen=True, slots=True)
class WaitingFor:
    """A signal that a task waits for."""

    signal: str
    prompt: str
    """what is asked of people."""
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as the log keeps it."""

    number: int
    type: str
    value: bytes
    """guildmesh.events.v1.TaskEvent, serialized."""


@dataclass(frozen=True, slots=True)
class Step:
    """An entry of a task's step journal."""

    step_id: str
    attempt: int
    result: bytes
    """google.protobuf.Value, serialized."""


@dataclass(slots=True)
class Lease:
    """One attempt of a task, given to a worker."""

    run: Run
    """the task's changing part at its start; with it a completion needs no look at what is known."""
    spec: bytes
    """as in Task."""
    context: bytes | None
    """as in Task."""
    create_time: datetime
    remaining: timedelta
    steps: tuple[Step, ...] = ()
    dependencies: tuple[Outcome, ...] = ()
    queue_priority: int = 0
    """of its queue, in the first of those that are leased at once."""
