from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1.scheduler_service_pb2 import CreateTaskRequest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidRequest
from services.scheduler.domain.events import Failed, Ready, Retried
from services.scheduler.domain.retry import RetryPolicy, decode_retry
from services.scheduler.domain.task import State, Times
from services.scheduler.server.convert import new_task
from tests.support.runs import NOW, a_run

LEASE = timedelta(seconds=15)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def test_the_back_off_doubles_from_1_s_to_10_s_and_differs_by_a_fifth() -> None:
    steady = RetryPolicy(jitter=0.0)
    assert [steady.back_off(attempt).total_seconds() for attempt in range(1, 8)] == [1, 2, 4, 8, 10, 10, 10]
    assert steady.back_off(2_000_000).total_seconds() == 10
    waits = {RetryPolicy().back_off(2).total_seconds() for _ in range(200)}
    assert len(waits) > 100
    assert all(1.6 <= wait <= 2.4 for wait in waits)
    assert max(waits) - min(waits) > 0.4


@given(
    st.integers(0, 86_400_000),
    st.integers(0, 604_800_000),
    st.floats(1, 10),
    st.floats(0, 1),
    st.lists(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True)),
    st.integers(1, 10**9),
)
def test_any_policy_survives_the_database_and_keeps_its_limits(
    initial: int, longest: int, multiplier: float, jitter: float, reasons: list[str], attempt: int
) -> None:
    policy = RetryPolicy(initial, longest, multiplier, jitter, tuple(reasons))
    assert decode_retry(policy.encode()) == policy
    assert timedelta() <= policy.back_off(attempt) <= timedelta(milliseconds=longest * (1 + jitter) + 1)


def test_a_failed_attempt_waits_as_its_policy_says() -> None:
    policy = RetryPolicy(initial_ms=60_000, max_ms=90_000, multiplier=1.0, jitter=0.0, non_retryable=("BAD_INPUT",))
    run = a_run(retry=policy.encode(), max_attempts=20)
    run.start("w", NOW, LEASE)
    change = run.fail_attempt("BROKEN", "it broke", NOW)
    assert change == Retried("BROKEN", "it broke", NOW + seconds(60))
    assert (run.state, run.available_at, run.worker_id, run.lease_expires) == (State.SCHEDULED, NOW + seconds(60), None, None)
    assert run.ready(NOW) == Ready()
    assert run.state is State.PENDING
    run.start("w", NOW, LEASE)
    # What a worker says of the wait counts more.
    assert run.fail_attempt("BUSY", "", NOW, delay=seconds(5)) == Retried("BUSY", "", NOW + seconds(5))
    run.ready(NOW)
    run.start("w", NOW, LEASE)
    assert run.fail_attempt("BUSY", "", NOW, delay=seconds(0)) == Retried("BUSY", "", None)
    assert run.state is State.PENDING
    run.start("w", NOW, LEASE)
    assert run.fail_attempt("BAD_INPUT", "no", NOW, retryable=True) == Failed("BAD_INPUT", "no")


def test_whoever_must_have_started_or_ended_fails_by_its_own_reason() -> None:
    waiting = a_run(start_by=NOW + seconds(5))
    assert not waiting.timed_out(NOW + seconds(4))
    assert waiting.timed_out(NOW + seconds(5))
    assert waiting.time_out(NOW + seconds(5)).reason == "START_TIMEOUT"
    both = a_run(start_by=NOW + seconds(5), end_by=NOW + seconds(5))
    assert both.time_out(NOW + seconds(5)).reason == "DEADLINE_EXCEEDED"
    running = a_run(start_by=NOW + seconds(5), end_by=NOW + seconds(8), timeout_ms=10_000)
    running.start("w", NOW, LEASE)
    assert (running.start_by, running.deadline) == (None, NOW + seconds(8))
    assert running.fail_attempt("BROKEN", "", NOW + seconds(8)).reason == "DEADLINE_EXCEEDED"
    short = a_run(end_by=NOW + seconds(80), timeout_ms=10_000)
    short.start("w", NOW, LEASE)
    assert short.deadline == NOW + seconds(10)
    assert short.fail_attempt("BROKEN", "", NOW + seconds(10)).reason == "TIMEOUT"


def test_an_attempt_that_is_slow_or_silent_is_tried_again() -> None:
    run = a_run(attempt_timeout_ms=3_000, heartbeat_timeout_ms=5_000, timeout_ms=600_000)
    run.start("w", NOW, LEASE)
    assert (run.attempt_ends, run.quiet_ends) == (NOW + seconds(3), NOW + seconds(5))
    assert run.lose_attempt(NOW + seconds(3)).reason == "ATTEMPT_TIMEOUT"
    assert (run.state, run.attempt_ends, run.quiet_ends) == (State.SCHEDULED, None, None)
    run = a_run(heartbeat_timeout_ms=5_000, timeout_ms=600_000)
    run.start("w", NOW, LEASE)
    run.hear(NOW + seconds(4))
    assert run.quiet_ends == NOW + seconds(9)
    assert run.lose_attempt(NOW + seconds(9)).reason == "HEARTBEAT_TIMEOUT"
    run = a_run(timeout_ms=600_000)
    run.start("w", NOW, LEASE)
    lost = run.lose_attempt(NOW + LEASE)
    # A lost worker says nothing of the task, so that it need not wait.
    assert (lost.reason, run.state) == ("WORKER_LOST", State.PENDING)


def test_moments_are_counted_from_the_creation() -> None:
    assert Times().start_at(NOW) is None
    assert Times(delay_ms=0).start_at(NOW) is None
    assert Times(delay_ms=1500).start_at(NOW) == NOW + seconds(1.5)
    assert Times(schedule_time=NOW - seconds(1)).start_at(NOW) is None
    assert Times(schedule_time=NOW + seconds(1)).start_at(NOW) == NOW + seconds(1)
    assert Times(delay_ms=1000, start_timeout_ms=2000).start_by(NOW) == NOW + seconds(3)
    assert Times(start_timeout_ms=2000, total_timeout_ms=1000).start_by(NOW) == NOW + seconds(1)
    assert Times(deadline=NOW + seconds(9)).start_by(NOW) == NOW + seconds(9)
    assert Times().start_by(NOW) is None


def created(**fields: object) -> Times | None:
    task = task_pb2.Task(description="x")
    for name, value in fields.items():
        getattr(task, name).FromSeconds(value)
    return new_task(CreateTaskRequest(task=task), "acme", "ada", "").times


def test_a_task_says_its_times_or_has_none() -> None:
    assert created() is None
    assert created(timeout=60) is None
    assert created(create_time=7, start_time=7) is None, "what only the scheduler says"
    moment = datetime(2027, 1, 1, tzinfo=UTC)
    times = created(
        schedule_time=int(moment.timestamp()), start_timeout=2, attempt_timeout=3, heartbeat_timeout=5, total_timeout=9
    )
    assert times == Times(moment, None, 2000, 3000, 5000, None, 9000)
    assert created(delay=3, deadline=int(moment.timestamp())) == Times(delay_ms=3000, deadline=moment)


@pytest.mark.parametrize("field", ["schedule_time", "deadline"])
@pytest.mark.parametrize("value", [10**18, -(10**15)])
def test_a_moment_that_is_none_is_refused(field: str, value: int) -> None:
    task = task_pb2.Task(description="x")
    getattr(task, field).seconds = value
    with pytest.raises(InvalidRequest, match=f"task.{field}: must be a time"):
        new_task(CreateTaskRequest(task=task), "acme", "ada", "")


def test_a_policy_has_grpcs_defaults() -> None:
    task = task_pb2.Task(description="x")
    task.retry_policy.SetInParent()
    times = new_task(CreateTaskRequest(task=task), "acme", "ada", "").times
    assert times is not None
    assert decode_retry(times.retry) == RetryPolicy(1000, 10_000, 2.0, 0.2, ())
    task = task_pb2.Task(description="x")
    task.retry_policy.initial_backoff.FromSeconds(60)
    times = new_task(CreateTaskRequest(task=task), "acme", "ada", "").times
    assert times is not None
    assert decode_retry(times.retry).max_ms == 60_000, "a first wait is not cut by a default"
