"""The life of a task: every change of state, as plain functions of the run and of the database's time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from services.scheduler.domain.events import Cancelled, Completed, Failed, Retried, Started
from services.scheduler.domain.task import State

LONGEST_BACK_OFF = timedelta(seconds=10)
_milliseconds = lru_cache(maxsize=256)(lambda number: timedelta(milliseconds=number))


@dataclass(slots=True)
class Run:
    """The part of a task that changes."""

    tenant_id: str
    task_id: str
    shard: int
    state: State
    queue: str
    kind: str
    priority: int
    attempt: int
    max_attempts: int
    timeout_ms: int
    next_event_number: int
    has_children: bool
    parent_task_id: str | None
    traceparent: str
    available_at: datetime
    has_steps: bool = False
    log_bytes: int = 0
    """size of the events that lie in the task's own row."""
    log_events: int = 0
    """how many they are: the first ones, 1..log_events."""
    worker_id: str | None = None
    lease_expires: datetime | None = None
    start_time: datetime | None = None
    deadline: datetime | None = None
    finish_time: datetime | None = None
    progress: float = 0.0
    result: bytes | None = None
    error_reason: str | None = None
    error_message: str | None = None
    counted: State | None = None
    """the state that the counts know, which is the one in the database; None for a task that is not there yet."""

    def start(self, worker_id: str, now: datetime, lease: timedelta) -> Started:
        """Gives the next attempt to a worker; the timeout counts from the first start."""
        self.state = State.RUNNING
        self.attempt += 1
        self.worker_id = worker_id
        self.lease_expires = now + lease
        if self.start_time is None:
            self.start_time = now
            self.deadline = now + _milliseconds(self.timeout_ms)
        return Started(worker_id)

    def complete(self, result: bytes, now: datetime) -> Completed:
        """Ends the task with a result."""
        self._end(State.COMPLETED, now)
        self.result = result
        self.progress = 1.0
        return Completed(result)

    def cancel(self, cause: str, now: datetime) -> Cancelled:
        """Ends the task because someone asked for it."""
        self._end(State.CANCELLED, now)
        return Cancelled(cause)

    def fail(self, reason: str, message: str, now: datetime) -> Failed:
        """Ends the task with an error."""
        self._end(State.FAILED, now)
        self.error_reason = reason
        self.error_message = message
        return Failed(reason, message)

    def fail_attempt(
        self, reason: str, message: str, now: datetime, *, retryable: bool = True, back_off: bool = True
    ) -> Retried | Failed:
        """Ends the attempt; the task waits for the next one while attempts and time remain, else it fails."""
        if self.timed_out(now):
            return self.time_out(now)
        if not retryable:
            return self.fail(reason, message, now)
        if self.attempt >= self.max_attempts:
            return self.fail(reason, f"{message} (attempt {self.attempt} of {self.max_attempts}, the last one)", now)
        self.state = State.PENDING
        self.worker_id = None
        self.lease_expires = None
        self.available_at = now + (self.back_off() if back_off else timedelta())
        return Retried(reason, message)

    def time_out(self, now: datetime) -> Failed:
        """Ends the task because its timeout passed (requirement row 18)."""
        return self.fail("TIMEOUT", f"The task did not end within {self.timeout_ms / 1000:g} s of its first start.", now)

    def timed_out(self, now: datetime) -> bool:
        """Whether the timeout has passed."""
        return self.deadline is not None and self.deadline <= now

    def back_off(self) -> timedelta:
        """How long the task waits after this attempt: 1, 2, 4, 8, then 10 s (requirement row 12)."""
        return min(timedelta(seconds=2 ** max(0, min(self.attempt, 10) - 1)), LONGEST_BACK_OFF)

    def stop_reason(self, attempt: int) -> str:
        """Why `attempt` may not go on: CANCELLED, TIMEOUT or STALE_ATTEMPT; empty when it may."""
        if self.state is State.RUNNING and self.attempt == attempt:
            return ""
        return end_reason(self.state, self.attempt, self.error_reason, attempt)

    def _end(self, state: State, now: datetime) -> None:
        self.state = state
        self.finish_time = now
        self.lease_expires = None


def end_reason(state: State, last_attempt: int, error_reason: str | None, attempt: int) -> str:
    """Why `attempt` of a task in `state` is over: CANCELLED, TIMEOUT or STALE_ATTEMPT."""
    if last_attempt == attempt and state is State.CANCELLED:
        return "CANCELLED"
    if last_attempt == attempt and state is State.FAILED and error_reason == "TIMEOUT":
        return "TIMEOUT"
    return "STALE_ATTEMPT"
