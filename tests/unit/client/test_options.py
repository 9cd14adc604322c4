"""What a task is created with, from Python and from the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from guildmesh.scheduler.v1 import task_pb2
from guildmesh_client.cli.errors import CommandError
from guildmesh_client.cli.times import moment_of, seconds_of
from guildmesh_client.options import Dependency, RetryPolicy, TaskOptions, fill


def filled(**options: object) -> task_pb2.Task:
    task = task_pb2.Task()
    fill(task, "text", options)  # type: ignore[arg-type]
    return task


def test_every_option_has_its_field() -> None:
    moment = datetime(2027, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    policy = RetryPolicy(0.5, 30, 3.0, 0.0, ("BAD",))
    values: dict[str, object] = {
        "kind": "k", "queue": "q", "context": {"a": 1}, "priority": 7, "timeout": 12.5, "max_attempts": 3, "labels": {"b": "c"},
        "parent_task_id": "p", "concurrency_key": "c", "schedule_time": moment, "start_timeout": 2, "attempt_timeout": 3,
        "heartbeat_timeout": 5, "deadline": moment, "retry_policy": policy,
        "dependencies": ["one", Dependency("two", "continue", "second")],
    }  # fmt: skip
    task = filled(**values)
    assert (task.description, task.kind, task.queue, task.priority, task.max_attempts) == ("text", "k", "q", 7, 3)
    assert (dict(task.context), dict(task.labels), task.parent_task_id) == ({"a": 1}, {"b": "c"}, "p")
    assert task.concurrency_key == "c"
    assert task.timeout.ToMilliseconds() == 12_500
    durations = (task.start_timeout, task.attempt_timeout, task.heartbeat_timeout)
    assert [each.ToMilliseconds() for each in durations] == [2000, 3000, 5000]
    assert task.schedule_time.ToDatetime(UTC) == task.deadline.ToDatetime(UTC) == moment
    assert task.retry_policy.initial_backoff.ToMilliseconds() == 500
    assert task.retry_policy.max_backoff.ToMilliseconds() == 30_000
    assert (task.retry_policy.backoff_multiplier, task.retry_policy.jitter) == (3.0, 0.0)
    assert list(task.retry_policy.non_retryable_reasons) == ["BAD"]
    assert [(each.task_id, each.name, each.failure_policy) for each in task.dependencies] == [
        ("one", "", 1),
        ("two", "second", 3),
    ]
    assert filled(delay=1.5).delay.ToMilliseconds() == 1500
    assert filled(total_timeout=9).total_timeout.ToMilliseconds() == 9000
    assert {*values, "delay", "total_timeout"} == set(TaskOptions.__annotations__)


def test_nothing_is_set_that_was_not_given() -> None:
    assert filled(kind="", context=None, delay=None, labels=None) == task_pb2.Task(description="text")


@pytest.mark.parametrize("both", [("delay", "schedule_time"), ("deadline", "total_timeout")])
def test_two_options_that_say_the_same_are_refused(both: tuple[str, str]) -> None:
    values = {name: datetime(2027, 1, 1, tzinfo=UTC) if name in ("schedule_time", "deadline") else 1 for name in both}
    with pytest.raises(ValueError, match="not both"):
        filled(**values)


def test_a_moment_needs_a_zone_and_an_option_a_known_name() -> None:
    with pytest.raises(ValueError, match="deadline has no time zone"):
        filled(deadline=datetime(2027, 1, 1))
    with pytest.raises(TypeError, match="a task has no 'colour'; it has kind"):
        filled(colour="red")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1.5m", 90), ("1h30m", 5400), ("2d", 172_800)])
def test_durations_are_written_as_people_write_them(text: str, seconds: float) -> None:
    assert seconds_of(text, "--delay") == seconds


@pytest.mark.parametrize("text", ["90", "s", "-1s", "1h 30m", "an hour"])
def test_what_is_no_duration_is_told(text: str) -> None:
    with pytest.raises(CommandError, match="write it as 90s"):
        seconds_of(text, "--delay")


def test_a_moment_on_the_command_line_needs_its_zone() -> None:
    assert moment_of("2026-12-01T09:00:00+01:00", "--at") == datetime(2026, 12, 1, 8, tzinfo=UTC)
    for text in ("tomorrow", "2026-12-01 09:00", "2026-13-01T09:00:00Z", ""):
        with pytest.raises(CommandError, match="--at must be a time with a zone"):
            moment_of(text, "--at")


def test_what_a_failure_does_is_one_of_three() -> None:
    with pytest.raises(ValueError, match="on_failure is 'ignore'; it may be fail, cancel, continue"):
        filled(dependencies=[Dependency("one", "ignore")])  # type: ignore[arg-type]
