"""The life of a task: every change of state, as plain functions of the run and of the database's time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from services.scheduler.domain.event_content import EventContent
from services.scheduler.domain.events import Cancelled, Completed, Failed, Ready, Retried, Started, Waiting
from services.scheduler.domain.retry import decode_retry
from services.scheduler.domain.task import State

DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
WORKER_LOST = "WORKER_LOST"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMEOUTS = ("TIMEOUT", DEADLINE_EXCEEDED)
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
    """whether steps, signals or events from elsewhere are kept of it until it ends."""
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
    start_by: datetime | None = None
    """when the task fails unless it has started; None once it has."""
    end_by: datetime | None = None
    """when the task fails unless it has ended, as it was asked for."""
    attempt_timeout_ms: int | None = None
    heartbeat_timeout_ms: int | None = None
    attempt_ends: datetime | None = None
    """when the attempt fails unless it has ended."""
    quiet_ends: datetime | None = None
    """when the attempt fails unless it has told progress or a step."""
    retry: str | None = None
    """a RetryPolicy, encoded; None for the default."""
    waits: int = 0
    """how many of the attempts ended by waiting, which the limit of attempts does not count."""
    signal: str | None = None
    """the signal that a WAITING task waits for."""
    prompt: str | None = None
    time_left_ms: int | None = None
    """how much of the timeout is left to a task that has waited and not started again; its clock stands still."""
    position: int = 0
    """its place in the line; 0 for a task that is not there yet."""
    counted: State | None = None
    """the state that the counts know, which is the one in the database; None for a task that is not there yet."""
    blocked_by: int | None = None
    """how many dependencies it waits for, 0 when all have ended; None for a task that has none."""
    has_dependants: bool = False
    """whether another task depends on it, or did."""
    start_timeout_ms: int | None = None
    """how long a BLOCKED task may wait for its start once it may start; only then `start_by` is known."""
    queue_tenant: str | None = None
    """tenant of its queue (* for one of all) when one replica decides what starts of it; None when replicas race."""
    output: int | None = None
    """the place (see output_place) of the last chunk of output that is among its events; None before the first."""
    create_time: datetime = _EPOCH
    """when the task was created; 1970 for a run of which no state is published any more."""
    event_content: EventContent | None = None
    """what of its texts goes to Kafka, as its queue said when it was created; None for all."""
    event_key_id: str | None = None
    """the key that its events are encrypted with."""

    def start(self, worker_id: str, now: datetime, lease: timedelta) -> Started:
        """Gives the next attempt to a worker; the timeout counts from the first start."""
        self.state = State.RUNNING
        self.attempt += 1
        self.worker_id = worker_id
        self.lease_expires = now + lease
        if self.start_time is None:
            self.start_time = now
            self.start_by = None
            self.deadline = now + _milliseconds(self.timeout_ms)
            if self.end_by is not None and self.end_by < self.deadline:
                self.deadline = self.end_by
        elif self.time_left_ms is not None:
            self.deadline = now + timedelta(milliseconds=self.time_left_ms)
            if self.end_by is not None and self.end_by < self.deadline:
                self.deadline = self.end_by
            self.time_left_ms = None
        if self.attempt_timeout_ms is not None:
            self.attempt_ends = now + _milliseconds(self.attempt_timeout_ms)
        self.hear(now)
        return Started(worker_id)

    def remaining(self, now: datetime) -> timedelta:
        """How long the attempt may still take, before the first of its timeouts that the worker is to keep."""
        limit = self.deadline or now
        if self.attempt_ends is not None and self.attempt_ends < limit:
            limit = self.attempt_ends
        return limit - now

    @property
    def check_at(self) -> datetime | None:
        """When the first of its limits is over."""
        if self.state is State.RUNNING:
            limits = (self.lease_expires, self.deadline, self.attempt_ends, self.quiet_ends)
        else:
            limits = (self.start_by if self.start_time is None else self.deadline, None, None, None)
        return min((limit for limit in limits if limit is not None), default=None)

    def hear(self, now: datetime) -> None:
        """The attempt tells something of what it does: its heartbeat timeout counts from now on."""
        if self.heartbeat_timeout_ms is not None:
            self.quiet_ends = now + _milliseconds(self.heartbeat_timeout_ms)

    def ready(self, now: datetime) -> Ready:
        """What the task waited for has come."""
        self.available_at = min(self.available_at, now)
        self.state = State.PENDING
        self.signal = self.prompt = None
        return Ready()

    def unblock(self, now: datetime) -> Ready:
        """Its dependencies have ended: it waits for its moment, or for a worker."""
        self.blocked_by = 0
        later = self.available_at > now
        self.state = State.SCHEDULED if later else State.PENDING
        if not later:
            self.available_at = now
        if self.start_timeout_ms is not None:
            start_by = self.available_at + timedelta(milliseconds=self.start_timeout_ms)
            self.start_by = start_by if self.end_by is None else min(start_by, self.end_by)
        return Ready(self.available_at if later else None)

    def wait(self, signal: str, prompt: str, timeout: timedelta, now: datetime) -> Waiting | Failed:
        """Ends the attempt until a signal comes. That time is no part of the timeout, and the attempt counts for no limit."""
        if self.timed_out(now):
            return self.time_out(now)
        self.state = State.WAITING
        self.waits += 1
        self.signal, self.prompt = signal, prompt
        self.worker_id = self.lease_expires = self.attempt_ends = self.quiet_ends = None
        if self.deadline is not None:
            self.time_left_ms = max(0, (self.deadline - now) // timedelta(milliseconds=1))
            self.deadline = self.end_by
        self.available_at = now + timeout
        return Waiting(signal, prompt, self.available_at)

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
        self,
        reason: str,
        message: str,
        now: datetime,
        *,
        retryable: bool = True,
        back_off: bool = True,
        delay: timedelta | None = None,
    ) -> Retried | Failed:
        """Ends the attempt; the task waits for the next one while attempts and time remain, else it fails.

        It waits for `delay`, or as its retry policy says, or, without `back_off`, not at all.
        """
        if self.timed_out(now):
            return self.time_out(now)
        policy = decode_retry(self.retry)
        if not retryable or reason in policy.non_retryable:
            return self.fail(reason, message, now)
        failures = self.attempt - self.waits
        if failures >= self.max_attempts:
            return self.fail(reason, f"{message} (attempt {failures} of {self.max_attempts}, the last one)", now)
        wait = timedelta()
        if delay is not None:
            wait = delay
        elif back_off:
            wait = policy.back_off(failures)
        self.state = State.SCHEDULED if wait else State.PENDING
        self.worker_id = None
        self.lease_expires = self.attempt_ends = self.quiet_ends = None
        self.available_at = now + wait
        return Retried(reason, message, self.available_at if wait else None)

    def time_out(self, now: datetime) -> Failed:
        """Ends the task because it has not started or not ended in time (requirement row 18)."""
        if self.end_by is not None and self.end_by <= now:
            return self.fail(DEADLINE_EXCEEDED, "The task did not end before its deadline.", now)
        if self.start_time is None:
            return self.fail("START_TIMEOUT", "No worker started the task within its start_timeout.", now)
        return self.fail("TIMEOUT", f"The task did not end within {self.timeout_ms / 1000:g} s of its first start.", now)

    def timed_out(self, now: datetime) -> bool:
        """Whether the task has not started or not ended in time."""
        limit = self.deadline if self.start_time is not None else self.start_by
        return limit is not None and limit <= now

    def lose_attempt(self, now: datetime) -> Retried | Failed:
        """Ends an attempt whose worker is silent, too slow, or says nothing of what it does."""
        if self.attempt_ends is not None and self.attempt_ends <= now:
            return self.fail_attempt("ATTEMPT_TIMEOUT", "The attempt did not end within the task's attempt_timeout.", now)
        if self.quiet_ends is not None and self.quiet_ends <= now:
            message = "The attempt told neither progress nor a step within the task's heartbeat_timeout."
            return self.fail_attempt("HEARTBEAT_TIMEOUT", message, now)
        return self.fail_attempt(WORKER_LOST, "The worker's lease ended without a heartbeat.", now, back_off=False)

    def stop_reason(self, attempt: int) -> str:
        """Why `attempt` may not go on: CANCELLED, TIMEOUT, DEADLINE_EXCEEDED or STALE_ATTEMPT; empty when it may."""
        if self.state is State.RUNNING and self.attempt == attempt:
            return ""
        return end_reason(self.state, self.attempt, self.error_reason, attempt)

    def _end(self, state: State, now: datetime) -> None:
        self.state = state
        self.finish_time = now
        self.lease_expires = None


def output_place(attempt: int, sequence: int) -> int:
    """The place of a chunk of output among all of its task."""
    return attempt << 32 | sequence


def end_reason(state: State, last_attempt: int, error_reason: str | None, attempt: int) -> str:
    """Why `attempt` of a task in `state` is over: CANCELLED, TIMEOUT, DEADLINE_EXCEEDED or STALE_ATTEMPT."""
    if last_attempt == attempt and state is State.CANCELLED:
        return "CANCELLED"
    if last_attempt == attempt and state is State.FAILED and error_reason in _TIMEOUTS:
        return error_reason
    return "STALE_ATTEMPT"
