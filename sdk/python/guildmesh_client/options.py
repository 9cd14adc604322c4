"""What a task may be created with besides its text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict

from google.protobuf.duration_pb2 import Duration
from guildmesh.scheduler.v1 import task_pb2

from guildmesh_client.worker.json_values import JsonValue, put_object

OnFailure: TypeAlias = Literal["fail", "cancel", "continue"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How failed attempts are followed by others: after attempt n the task waits initial_backoff × multiplier^(n-1) seconds."""

    initial_backoff: float = 1.0
    """seconds."""
    max_backoff: float = 10.0
    """seconds; the longest wait."""
    multiplier: float = 2.0
    jitter: float = 0.2
    """share of a wait by which it may differ."""
    non_retryable_reasons: tuple[str, ...] = ()
    """reasons after which the task is not tried again."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """A task that is there already, and that another one waits for."""

    task_id: str
    on_failure: OnFailure = "fail"
    """what becomes of the one that waits when this one fails or is cancelled; continue: it counts as done."""
    name: str = ""
    """by which the worker finds its result; the task id when empty."""


class TaskOptions(TypedDict, total=False):
    """As the fields of guildmesh.scheduler.v1.Task, durations in seconds; None is as good as nothing."""

    kind: str
    queue: str
    concurrency_key: str
    context: Mapping[str, JsonValue] | None
    priority: int | None
    timeout: float | None
    max_attempts: int | None
    labels: Mapping[str, str] | None
    parent_task_id: str
    delay: float | None
    schedule_time: datetime | None
    start_timeout: float | None
    attempt_timeout: float | None
    heartbeat_timeout: float | None
    deadline: datetime | None
    total_timeout: float | None
    retry_policy: RetryPolicy | None
    dependencies: Sequence[str | Dependency] | None


def fill(task: task_pb2.Task, description: str, options: TaskOptions) -> None:
    """Puts a text and options into an empty task, each where it belongs: messages given as arguments are copied.

    Raises:
        TypeError: there is no such option.
        ValueError: the context is not a JSON object, or both of two options are given of which one is enough.
    """
    task.description = description
    for name, value in options.items():
        if value is None or value == "":
            continue
        put = _PUT.get(name)
        if put is None:
            raise TypeError(f"a task has no {name!r}; it has {', '.join(_PUT)}")
        put(task, value)
    for one, other in (("delay", "schedule_time"), ("deadline", "total_timeout")):
        if options.get(one) is not None and options.get(other) is not None:
            raise ValueError(f"give {one} or {other}, not both")


def _seconds(duration: Duration, seconds: float) -> None:
    duration.FromNanoseconds(round(seconds * 1e9))


def _plain(name: str) -> Callable[[task_pb2.Task, Any], None]:
    return lambda task, value: setattr(task, name, value)


def _duration(name: str) -> Callable[[task_pb2.Task, Any], None]:
    return lambda task, value: _seconds(getattr(task, name), value)


def _moment(name: str) -> Callable[[task_pb2.Task, Any], None]:
    def put(task: task_pb2.Task, value: datetime) -> None:
        if value.tzinfo is None:
            raise ValueError(f"{name} has no time zone: {value}; give it one, such as datetime.now(UTC) has")
        getattr(task, name).FromDatetime(value)

    return put


def _retry_policy(task: task_pb2.Task, value: RetryPolicy) -> None:
    policy = task.retry_policy
    _seconds(policy.initial_backoff, value.initial_backoff)
    _seconds(policy.max_backoff, value.max_backoff)
    policy.backoff_multiplier = value.multiplier
    policy.jitter = value.jitter
    policy.non_retryable_reasons.extend(value.non_retryable_reasons)


def policy_of(on_failure: OnFailure) -> task_pb2.DependencyFailurePolicy.ValueType:
    """The contract's word for it; raises ValueError for another."""
    if on_failure not in _POLICIES:
        raise ValueError(f"on_failure is {on_failure!r}; it may be {', '.join(_POLICIES)}")
    return _POLICIES[on_failure]


_POLICIES: Mapping[str, task_pb2.DependencyFailurePolicy.ValueType] = {
    "fail": task_pb2.DEPENDENCY_FAILURE_POLICY_FAIL,
    "cancel": task_pb2.DEPENDENCY_FAILURE_POLICY_CANCEL,
    "continue": task_pb2.DEPENDENCY_FAILURE_POLICY_CONTINUE,
}


def _dependencies(task: task_pb2.Task, value: Sequence[str | Dependency]) -> None:
    for each in value:
        dependency = Dependency(each) if isinstance(each, str) else each
        policy = policy_of(dependency.on_failure)
        task.dependencies.add(task_id=dependency.task_id, name=dependency.name, failure_policy=policy)


_PUT: Mapping[str, Callable[[task_pb2.Task, Any], None]] = {
    "kind": _plain("kind"),
    "queue": _plain("queue"),
    "concurrency_key": _plain("concurrency_key"),
    "context": lambda task, value: put_object(task.context, value),
    "priority": _plain("priority"),
    "timeout": _duration("timeout"),
    "max_attempts": _plain("max_attempts"),
    "labels": lambda task, value: task.labels.update(value),
    "parent_task_id": _plain("parent_task_id"),
    "delay": _duration("delay"),
    "schedule_time": _moment("schedule_time"),
    "start_timeout": _duration("start_timeout"),
    "attempt_timeout": _duration("attempt_timeout"),
    "heartbeat_timeout": _duration("heartbeat_timeout"),
    "deadline": _moment("deadline"),
    "total_timeout": _duration("total_timeout"),
    "retry_policy": _retry_policy,
    "dependencies": _dependencies,
}
