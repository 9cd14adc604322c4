"""What can happen to a task: one dataclass for each event of guildmesh.events.v1, and the types that end a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from services.scheduler.domain.payload import PayloadReference


@dataclass(frozen=True, slots=True)
class Created:
    """The task is kept."""

    type: ClassVar[str] = "guildmesh.task.created.v1"
    description: str
    priority: int
    labels: Mapping[str, str]
    next_start_time: datetime | None = None
    """when it becomes PENDING; None when it is so from the beginning, or BLOCKED."""
    dependency_ids: tuple[str, ...] = ()
    """the tasks that it depends on; with any, it is BLOCKED."""
    context_payload: PayloadReference | None = None
    """the payload that is its context."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The task waits no longer for a moment, a signal or its dependencies, but for a worker."""

    type: ClassVar[str] = "guildmesh.task.ready.v1"
    next_start_time: datetime | None = None
    """when it becomes PENDING, after its dependencies have ended before its moment; None when it is so."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An attempt ended, and the task waits for a signal."""

    type: ClassVar[str] = "guildmesh.task.waiting.v1"
    signal: str
    prompt: str
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class Signalled:
    """The task has got a signal, or the time to wait for it is over."""

    type: ClassVar[str] = "guildmesh.task.signalled.v1"
    signal: str
    value: bytes | None
    """google.protobuf.Value, serialized; None when none came in time."""
    prompt: str = ""
    """what was asked; empty when the task did not wait for it yet."""


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has the task."""

    type: ClassVar[str] = "guildmesh.task.started.v1"
    worker_id: str


@dataclass(frozen=True, slots=True)
class StepCompleted:
    """A step is in the journal."""

    type: ClassVar[str] = "guildmesh.task.step_completed.v1"
    step_id: str
    result: bytes


@dataclass(frozen=True, slots=True)
class Progressed:
    """How far the attempt is."""

    type: ClassVar[str] = "guildmesh.task.progressed.v1"
    progress: float


@dataclass(frozen=True, slots=True)
class Output:
    """Text that the attempt has put out."""

    type: ClassVar[str] = "guildmesh.task.output.v1"
    sequence: int
    """within the attempt, 1..N."""
    text: str


@dataclass(frozen=True, slots=True)
class Retried:
    """An attempt ended without a result; the task waits for the next."""

    type: ClassVar[str] = "guildmesh.task.retried.v1"
    reason: str
    message: str
    next_start_time: datetime | None = None
    """when it becomes PENDING again; None when it is so at once."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The task has a result."""

    type: ClassVar[str] = "guildmesh.task.completed.v1"
    result: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The task failed for good."""

    type: ClassVar[str] = "guildmesh.task.failed.v1"
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The task was cancelled."""

    type: ClassVar[str] = "guildmesh.task.cancelled.v1"
    cause: str


@dataclass(frozen=True, slots=True)
class ChildCreated:
    """A subtask of the task is kept."""

    type: ClassVar[str] = "guildmesh.task.child_created.v1"
    child_task_id: str
    kind: str
    queue: str


@dataclass(frozen=True, slots=True)
class ChildEnded:
    """A subtask of the task has ended."""

    type: ClassVar[str] = "guildmesh.task.child_ended.v1"
    child_task_id: str
    kind: str
    state: str
    """name of its state, in capitals."""
    reason: str
    """of a failed one."""


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """Another service is about to run a tool for the task."""

    type: ClassVar[str] = "guildmesh.task.tool_called.v1"
    source: str
    source_id: str
    body: bytes
    """guildmesh.events.v1.TaskToolCalled, serialized."""


@dataclass(frozen=True, slots=True)
class ToolReturned:
    """A run of a tool is over."""

    type: ClassVar[str] = "guildmesh.task.tool_returned.v1"
    source: str
    source_id: str
    body: bytes
    """guildmesh.events.v1.TaskToolReturned, serialized."""


Change = (
    Created
    | Ready
    | Waiting
    | Signalled
    | Started
    | StepCompleted
    | Progressed
    | Output
    | Retried
    | Completed
    | Failed
    | Cancelled
    | ChildCreated
    | ChildEnded
    | ToolCalled
    | ToolReturned
)

LAST_TYPES = frozenset({Completed.type, Failed.type, Cancelled.type})
"""Types after which a task has no more events."""
