"""What is known after a run of the fault tests: histories, tables, topics and streams, as the checkers see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.history import INFO, Operation


@dataclass(frozen=True)
class Event:
    """An event as one channel showed it; `digest` is of the whole of it."""

    task_id: str
    number: int
    type: str
    """created, ready, started, step_completed and so on: the name of the change."""
    attempt: int
    digest: str = ""
    detail: str = ""
    """step id of step_completed, name of signalled, run of a tool, subtask."""
    value: str = ""
    """digest of the value of signalled, outcome of tool_returned."""
    time: float = 0.0
    """when it was made, in seconds since 1970."""
    due: float = 0.0
    """of created, ready and retried: the moment that the task waits for, or 0; of other waits the first of all."""
    needs: tuple[str, ...] = ()
    """of created: the tasks that it depends on."""


@dataclass(frozen=True)
class TaskRow:
    """A task as the tables have it."""

    task_id: str
    tag: str
    """description, by which the one who asked for it knows it."""
    state: str
    attempt: int
    last_number: int
    result: str = ""
    """digest of the result."""
    leased: bool = False
    queue: str = ""
    key: str = ""
    """concurrency key."""
    replay_of: str = ""
    """the failed task that it repeats."""


@dataclass(frozen=True)
class QueueLimits:
    """What may run and start in a queue."""

    max_running: int
    max_running_per_key: int | None = None
    rate_per_second: float | None = None
    rate_burst: int = 1


@dataclass(frozen=True)
class StateRecord:
    """A record of the compacted topic."""

    task_id: str
    state: str
    last_number: int
    digest: str = ""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    kind: str
    task_id: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.task_id}: {self.text}"


@dataclass
class Evidence:
    """Everything that is known after a run, when all is quiet."""

    history: Sequence[Operation] = ()
    tasks: Mapping[str, TaskRow] = field(default_factory=dict)
    table: Sequence[Event] = ()
    """the log, in order of the numbers of each task."""
    kafka: Sequence[Event] | None = None
    """the events topic, read committed, in order of each partition; None when there was no relay."""
    state: Sequence[StateRecord] | None = None
    """the state topic, in the same way."""
    watches: Sequence[Sequence[Event]] = ()
    """each one stream, in order, from the beginning of a task."""
    outbox: int = 0
    """rows that wait to be published."""
    limits: Mapping[str, QueueLimits] = field(default_factory=dict)
    """by queue."""
    wall: float = 0.0
    """what a moment of a history is before the same moment of an event."""

    def size(self) -> dict[str, int]:
        """How much was judged: a run in which nothing happened proves nothing."""
        return {
            "operations": len(self.history),
            "unknown": sum(operation.outcome == INFO for operation in self.history),
            "tasks": len(self.tasks),
            "events": len(self.table),
            "records": len(self.kafka or ()) + len(self.state or ()),
            "watched": sum(len(watch) for watch in self.watches),
            "limited": sum(row.queue in self.limits for row in self.tasks.values()),
        }
