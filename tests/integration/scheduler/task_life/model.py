"""What a task should be, by the rules of its life alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.scheduler.domain.dependency import FailurePolicy
from services.scheduler.domain.task import State

if TYPE_CHECKING:
    from tests.integration.scheduler.task_life.queue_model import QueueModel


TENANT = "acme"
"""whose tasks these are, mostly."""


@dataclass
class Model:
    """A task, as it should be."""

    task_id: str
    order: int
    priority: int
    max_attempts: int
    parent: str = ""
    tenant: str = TENANT
    state: State = State.PENDING
    attempt: int = 0
    events: list[tuple[str, int]] = field(default_factory=lambda: [("created", 0)])
    steps: dict[str, int] = field(default_factory=dict)
    """attempt by step."""
    result: str = ""
    context: str = ""
    """payload that is its context."""
    payload: str = ""
    """payload that is its result."""
    reason: str = ""
    lost: bool = False
    """its lease has ended, and nobody has noticed."""
    late: str = ""
    """why it should fail, when the moment has passed and nobody has noticed."""
    timed: bool = False
    """it has timeouts of its attempts."""
    patient: bool = False
    """its retry policy has an attempt wait for an hour after most failures, and none follow after BAD."""
    queue_priority: int = 5
    retention_days: int = 0
    key: str = ""
    """concurrency key."""
    decided: bool = False
    """one replica decides when it starts."""
    home: QueueModel | None = None
    letter_days: int | None = None
    """how long its queue keeps what failed, when it failed."""
    replay: str = ""
    """its newest replay."""
    dismissed: bool = False
    """its dead letter was."""
    slow: bool = False
    """its attempt_timeout has passed, and nobody has noticed."""
    quiet: bool = False
    """its heartbeat_timeout has passed, and nobody has noticed."""
    waits: int = 0
    """how many attempts ended by waiting."""
    signal: str = ""
    """what it waits for."""
    due: bool = False
    """the moment that it waits for has come."""
    needs: dict[str, State | None] = field(default_factory=dict)
    """how each task that it depends on has ended."""
    policy: FailurePolicy = FailurePolicy.FAIL
    chunks: int = 0
    """of output of the newest attempt."""
    put_out: list[tuple[int, int, str]] = field(default_factory=list)
    """attempt, sequence and text of all chunks."""

    told: list[int] = field(default_factory=list)
    """numbers of the events of a tool."""

    def hears(self, task_id: str, state: State) -> None:
        """One of those that it depends on has ended."""
        if self.state is not State.BLOCKED:
            return
        self.needs[task_id] = state
        if state is State.COMPLETED or self.policy is FailurePolicy.CONTINUE:
            if all(self.needs.values()):
                self.ready()
        elif self.policy is FailurePolicy.CANCEL:
            self.end(State.CANCELLED, "cancelled")
        else:
            self.reason = "DEPENDENCY_FAILED"
            self.end(State.FAILED, "failed")

    def says(self, kind: str) -> None:
        self.events.append((kind, self.attempt))

    def start(self, *, lost: bool) -> None:
        self.state, self.attempt, self.lost, self.slow, self.quiet = State.RUNNING, self.attempt + 1, lost, False, False
        self.chunks = 0
        self.says("started")

    def ready(self) -> None:
        self.state, self.due, self.signal = State.PENDING, False, ""
        self.says("ready")

    def wait(self, signal: str) -> None:
        if self.late:
            self.reason = self.late
            self.end(State.FAILED, "failed")
            return
        self.state, self.signal, self.lost, self.slow, self.quiet = State.WAITING, signal, False, False, False
        self.waits += 1
        self.says("waiting")
        if signal in self.steps:
            self.ready()

    def signalled(self, signal: str) -> None:
        self.steps[signal] = self.attempt
        self.says("signalled")
        if self.state is State.WAITING and self.signal == signal:
            self.ready()

    def end(self, state: State, kind: str) -> None:
        self.state = state
        if state is State.FAILED and self.home is not None:
            self.letter_days = self.home.letter_days
        self.lost = self.slow = self.quiet = False
        self.late = ""
        self.says(kind)

    def stop_reason(self, attempt: int) -> str:
        if self.state is State.RUNNING and self.attempt == attempt:
            return ""
        if self.state is State.CANCELLED and self.attempt == attempt:
            return "CANCELLED"
        if self.state is State.FAILED and self.attempt == attempt and self.reason in ("TIMEOUT", "DEADLINE_EXCEEDED"):
            return self.reason
        return "STALE_ATTEMPT"

    def fail_attempt(self, reason: str, *, retryable: bool, waits: bool) -> None:
        if self.late:
            self.reason = self.late
            self.end(State.FAILED, "failed")
        elif not retryable or self.attempt - self.waits >= self.max_attempts:
            self.reason = reason
            self.end(State.FAILED, "failed")
        else:
            self.state, self.lost, self.slow, self.quiet = State.PENDING, False, False, False
            if waits:
                self.state = State.SCHEDULED
            self.says("retried")
