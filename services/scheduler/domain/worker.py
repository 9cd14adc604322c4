"""What a worker and the scheduler say to each other over the Work stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from services.scheduler.domain.run import Run
from services.scheduler.domain.task import Lease


@dataclass(frozen=True, slots=True)
class Hello:
    """Who the worker is and what it runs."""

    worker_id: str
    kinds: frozenset[str]
    queues: frozenset[str]
    """queues to take from; empty for all."""
    all_tenants: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """An attempt is alive. `tenant_id` is None for a worker of the mesh, which serves every tenant."""

    tenant_id: str | None
    task_id: str
    attempt: int
    progress: float | None = None


@dataclass(frozen=True, slots=True)
class StepReport:
    """A step is done."""

    tenant_id: str | None
    worker_id: str
    task_id: str
    attempt: int
    step_id: str
    result: bytes


# One is made for nearly every task that passes, and a frozen dataclass takes three times as long to make.
@dataclass(slots=True)
class CompletionReport:
    """The task has a result."""

    tenant_id: str | None
    worker_id: str
    task_id: str
    attempt: int
    result: bytes
    run: Run | None = None
    """the run as it was at its start, when nothing is known to have changed it since."""


@dataclass(frozen=True, slots=True)
class FailureReport:
    """The attempt ended with an error."""

    tenant_id: str | None
    worker_id: str
    task_id: str
    attempt: int
    reason: str
    message: str
    retryable: bool
    retry_delay: timedelta | None = None
    """how long the next attempt waits, instead of the back-off."""
    back_off: bool = True


@dataclass(frozen=True, slots=True)
class WaitReport:
    """The attempt ended to wait for a signal."""

    tenant_id: str | None
    worker_id: str
    task_id: str
    attempt: int
    signal: str
    prompt: str
    timeout: timedelta


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """How far the attempt is, when that is an event. It has no answer."""

    tenant_id: str | None
    worker_id: str
    task_id: str
    attempt: int
    progress: float


@dataclass(frozen=True, slots=True)
class OutputReport:
    """The attempt has put out text."""

    tenant_id: str | None
    worker_id: str
    task_id: str
    attempt: int
    sequence: int
    """within the attempt, 1..N."""
    text: str


Report = StepReport | CompletionReport | FailureReport | WaitReport | ProgressReport | OutputReport


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a report was not accepted: STALE_ATTEMPT or INVALID_ARGUMENT, and what to do."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class WorkerMessage:
    """One message of a worker; any of its parts may be there."""

    hello: Hello | None = None
    credits: int = 0
    heartbeats: tuple[tuple[str, int, float | None], ...] = ()
    """task, attempt, progress."""
    steps: tuple[tuple[str, int, str, bytes], ...] = ()
    """task, attempt, step, result."""
    completions: tuple[tuple[str, int, bytes], ...] = ()
    """task, attempt, result."""
    failures: tuple[tuple[str, int, str, str, bool, timedelta | None], ...] = ()
    """task, attempt, reason, message, retryable, how long to wait."""
    waits: tuple[tuple[str, int, str, str, timedelta], ...] = ()
    """task, attempt, signal, prompt, timeout."""
    outputs: tuple[tuple[str, int, int, str], ...] = ()
    """task, attempt, sequence, text."""
    drain: bool = False


@dataclass(slots=True)
class SchedulerMessage:
    """One message to a worker; it gathers what there is to say while the one before is on its way."""

    welcome: tuple[timedelta, timedelta] | None = None
    """lease duration, heartbeat interval."""
    leases: list[Lease] = field(default_factory=list)
    cancels: list[tuple[str, int, str]] = field(default_factory=list)
    """task, attempt, reason."""
    acks: list[tuple[str, int, str]] = field(default_factory=list)
    """task, attempt, step or empty."""
    refusals: list[tuple[str, int, str, Refusal]] = field(default_factory=list)
    """task, attempt, step or empty, why."""
    renewals: list[tuple[str, int]] = field(default_factory=list)
    """task, attempt."""
    outputs: list[tuple[str, int, int, Refusal | None]] = field(default_factory=list)
    """task, attempt, sequence, None for a durable chunk."""
    drain: bool = False
    renew_token: timedelta | None = None
    """how long the token of the stream still lasts."""

    def empty(self) -> bool:
        """Whether there is nothing to say."""
        return not (self.leases or self.acks or self.has_rare())

    def has_rare(self) -> bool:
        """Whether there is anything but leases and acknowledgements, of which nearly every message is made."""
        lists = self.cancels or self.refusals or self.renewals or self.outputs
        return bool(lists or self.welcome or self.drain or self.renew_token is not None)
