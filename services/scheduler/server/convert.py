"""Between the messages of guildmesh.scheduler.v1 and the domain."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from google.api import field_behavior_pb2
from google.protobuf.struct_pb2 import NULL_VALUE, Value
from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.scheduler.v1 import scheduler_service_pb2 as service_pb
from guildmesh.scheduler.v1 import task_pb2 as pb
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb

from services.common.errors import InvalidRequest
from services.common.ids import new_id
from services.common.wire import duration, number, text, timestamp, varint
from services.scheduler.domain import task as domain
from services.scheduler.domain.dependency import Dependency
from services.scheduler.domain.payload import is_payload, named_result
from services.scheduler.domain.retry import RetryPolicy
from services.scheduler.domain.task_filter import Condition, TaskFilter, parse_filter, parse_order
from services.scheduler.domain.worker import Hello, SchedulerMessage, WorkerMessage
from services.scheduler.server.dependency_convert import dependencies_of, outcome_message
from services.scheduler.server.payload_convert import payload_id_in
from services.scheduler.usecases.watch_tasks import Seen

_NO_LABELS: Mapping[str, str] = {}
_OUTPUT_ONLY = tuple(
    field.name
    for field in pb.Task.DESCRIPTOR.fields
    if field_behavior_pb2.OUTPUT_ONLY in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
)


_TIMES = (
    "schedule_time",
    "delay",
    "start_timeout",
    "attempt_timeout",
    "heartbeat_timeout",
    "deadline",
    "total_timeout",
    "retry_policy",
)
_UNUSUAL = (*_OUTPUT_ONLY, *_TIMES, "dependencies", "context_payload")
_USUAL = {field.number for field in pb.Task.DESCRIPTOR.fields if field.name not in _UNUSUAL}


def submitted_task(request: service_pb.SubmitTaskRequest, tenant_id: str, subject: str, traceparent: str) -> domain.NewTask:
    """The task of POST /task: the plan's defaults, for the agents."""
    create = service_pb.CreateTaskRequest(task=pb.Task(description=request.task))
    if request.HasField("context"):
        create.task.context.CopyFrom(request.context)
    if request.HasField("priority"):
        create.task.priority = request.priority
    if request.HasField("timeout"):
        create.task.timeout.FromSeconds(request.timeout)
    return new_task(create, tenant_id, subject, traceparent)


def new_task(
    request: service_pb.CreateTaskRequest | service_pb.RunTaskRequest,
    tenant_id: str,
    subject: str,
    traceparent: str,
    task_id: str | None = None,
) -> domain.NewTask:
    """The task of CreateTask or RunTask, with its defaults, and a new id; changes the request, which is the caller's no more."""
    task = request.task
    times = None
    dependencies: tuple[Dependency, ...] = ()
    for field, _ in task.ListFields():
        if field.number not in _USUAL:
            for name in _OUTPUT_ONLY:
                task.ClearField(name)  # type: ignore[arg-type]
            times = _times(task)
            dependencies = dependencies_of(task)
            _check_payload(task)
            break
    context = None
    if task.HasField("context"):
        context = task.context.SerializeToString(deterministic=True)
        task.ClearField("context")
    if task.parent_task_id:
        task.parent_task_id = task.parent_task_id.lower()
    queue, kind = task.queue or domain.DEFAULT_QUEUE, task.kind or domain.DEFAULT_KIND
    priority = task.priority if task.HasField("priority") else domain.DEFAULT_PRIORITY
    own_max_attempts = task.HasField("max_attempts")
    max_attempts = task.max_attempts if own_max_attempts else domain.DEFAULT_MAX_ATTEMPTS
    timeout_ms = task.timeout.ToMilliseconds() if task.HasField("timeout") else domain.DEFAULT_TIMEOUT_MS
    task_id = task_id or new_id()
    context_payload = task.context_payload or None
    # What comes later in an encoding counts, so what the caller does not choose is put behind what was sent.
    rest = _rest_of_spec(queue, kind, max_attempts, timeout_ms, tenant_id, subject)
    spec = b"".join((task.SerializeToString(), b"\x0a\x24", task_id.encode(), b"\x38", varint(priority), rest))
    return domain.NewTask(
        task_id=task_id,
        tenant_id=tenant_id,
        created_by=subject,
        spec=spec,
        description=task.description,
        queue=queue,
        kind=kind,
        context=context,
        priority=priority,
        timeout_ms=timeout_ms,
        max_attempts=max_attempts,
        own_max_attempts=own_max_attempts,
        parent_task_id=task.parent_task_id or None,
        parent_attempt=request.parent_attempt,
        labels=dict(task.labels) if task.labels else _NO_LABELS,
        request_id=request.request_id,
        payload=_payload(task, queue, kind, priority, max_attempts) if request.request_id else b"",
        traceparent=traceparent,
        times=times,
        dependencies=dependencies,
        concurrency_key=task.concurrency_key or None,
        context_payload=context_payload,
    )


def _check_payload(task: pb.Task) -> None:
    if task.context_payload and task.HasField("context"):
        raise InvalidRequest([("task.context", "must be unset with context_payload, which is the context then")])
    task.context_payload = task.context_payload.lower()


def _times(task: pb.Task) -> domain.Times | None:
    if not any(task.HasField(name) for name in _TIMES):  # type: ignore[arg-type]
        return None
    return domain.Times(
        schedule_time=_moment(task, "schedule_time"),
        delay_ms=_milliseconds(task, "delay"),
        start_timeout_ms=_milliseconds(task, "start_timeout"),
        attempt_timeout_ms=_milliseconds(task, "attempt_timeout"),
        heartbeat_timeout_ms=_milliseconds(task, "heartbeat_timeout"),
        deadline=_moment(task, "deadline"),
        total_timeout_ms=_milliseconds(task, "total_timeout"),
        retry=encoded_retry(task.retry_policy) if task.HasField("retry_policy") else None,
    )


def moment(stamp: Timestamp, name: str) -> datetime:
    """The moment of a timestamp; raises InvalidRequest for one that is none."""
    try:
        found: datetime = stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest([(name, "must be a time from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z")]) from None
    return found


def _moment(task: pb.Task, name: str) -> datetime | None:
    return moment(getattr(task, name), f"task.{name}") if task.HasField(name) else None  # type: ignore[arg-type]


def _milliseconds(task: pb.Task, name: str) -> int | None:
    return getattr(task, name).ToMilliseconds() if task.HasField(name) else None  # type: ignore[arg-type]


def encoded_retry(policy: pb.RetryPolicy) -> str:
    """The policy with its defaults, encoded for the database."""
    default = RetryPolicy()
    initial_ms = policy.initial_backoff.ToMilliseconds() if policy.HasField("initial_backoff") else default.initial_ms
    max_ms = policy.max_backoff.ToMilliseconds() if policy.HasField("max_backoff") else max(default.max_ms, initial_ms)
    return RetryPolicy(
        initial_ms,
        max_ms,
        policy.backoff_multiplier if policy.HasField("backoff_multiplier") else default.multiplier,
        policy.jitter if policy.HasField("jitter") else default.jitter,
        tuple(policy.non_retryable_reasons),
    ).encode()


@lru_cache(maxsize=4096)
def _rest_of_spec(queue: str, kind: str, max_attempts: int, timeout_ms: int, tenant_id: str, subject: str) -> bytes:
    task = pb.Task(queue=queue, kind=kind, max_attempts=max_attempts, tenant_id=tenant_id, created_by=subject)
    task.timeout.FromMilliseconds(timeout_ms)
    return task.SerializeToString()


def _payload(task: pb.Task, queue: str, kind: str, priority: int, max_attempts: int) -> bytes:
    """All that the caller chose, with the defaults, in an encoding that is always the same."""
    task.queue, task.kind, task.priority, task.max_attempts = queue, kind, priority, max_attempts
    # What is in it counts, not its id: a repeat may have uploaded the same once more.
    task.ClearField("context_payload")
    if not task.HasField("timeout"):
        task.timeout.seconds = domain.DEFAULT_TIMEOUT_MS // 1000
    return task.SerializeToString(deterministic=True)


def task_filter(request: service_pb.ListTasksRequest) -> TaskFilter:
    """What ListTasks lists; raises InvalidFilter or InvalidOrderBy."""
    conditions = []
    if request.state:
        conditions.append(Condition("state", "=", domain.State(request.state)))
    if request.queue:
        conditions.append(Condition("queue", "=", request.queue))
    if request.parent_task_id:
        # What is no id is the parent of nothing.
        conditions.append(Condition("parent_task_id", "=", request.parent_task_id.lower()))
    by_finish_time, descending = parse_order(request.order_by)
    return TaskFilter((*conditions, *parse_filter(request.filter)), by_finish_time=by_finish_time, descending=descending)


def watch_response(seen: Seen) -> service_pb.WatchTasksResponse:
    """An event, or only where a stream of events is."""
    response = service_pb.WatchTasksResponse(resume_token=seen.token)
    if seen.event is not None:
        response.event.MergeFromString(seen.event.value)
    return response


def task_message(task: domain.Task) -> pb.Task:
    """The task as its tenant sees it."""
    message = pb.Task()
    fill_task(message, task)
    return message


def fill_task(message: pb.Task, task: domain.Task) -> None:
    """Puts the task into an empty message, so that one within another is not copied."""
    message.ParseFromString(task.spec)
    message.state = pb.TaskState.ValueType(task.state)
    message.status = task.state.status
    message.attempt = task.attempt
    message.progress = task.progress
    message.last_event_number = task.last_event_number
    message.create_time.CopyFrom(_timestamp(task.create_time))
    if task.context is not None:
        message.context.MergeFromString(task.context)
        message.context.SetInParent()
    if task.result is not None:
        if is_payload(task.result):
            message.result_payload = payload_id_in(task.result)
        else:
            message.result.MergeFromString(task.result)
    if task.error_reason is not None:
        message.error.reason = task.error_reason
        message.error.message = task.error_message or ""
    if task.start_time is not None:
        message.start_time.CopyFrom(_timestamp(task.start_time))
    if task.finish_time is not None:
        message.finish_time.CopyFrom(_timestamp(task.finish_time))
    if task.waiting_for is not None:
        message.waiting_for.signal, message.waiting_for.prompt = task.waiting_for.signal, task.waiting_for.prompt
        message.waiting_for.expire_time.CopyFrom(_timestamp(task.waiting_for.expire_time))
    if task.blocked_by:
        message.blocked_by = task.blocked_by
    if task.next_start_time is not None:
        message.next_start_time.CopyFrom(_timestamp(task.next_start_time))


def worker_message(request: worker_pb.WorkRequest) -> WorkerMessage:
    """What a worker tells."""
    hello = None
    if request.HasField("hello"):
        hello = Hello(
            worker_id=request.hello.worker_id,
            kinds=frozenset(request.hello.kinds),
            queues=frozenset(request.hello.queues),
            all_tenants=request.hello.all_tenants,
        )
    return WorkerMessage(
        hello=hello,
        credits=request.credits,
        heartbeats=tuple(
            (beat.task_id, beat.attempt, beat.progress if beat.HasField("progress") else None) for beat in request.heartbeats
        ),
        steps=tuple((step.task_id, step.attempt, step.step_id, value_bytes(step.result)) for step in request.steps),
        completions=tuple((done.task_id, done.attempt, _result(done)) for done in request.completions),
        failures=tuple(
            (failure.task_id, failure.attempt, failure.error.reason, failure.error.message, failure.retryable, _delay(failure))
            for failure in request.failures
        ),
        outputs=tuple((chunk.task_id, chunk.attempt, chunk.sequence, chunk.text) for chunk in request.outputs),
        waits=tuple((wait.task_id, wait.attempt, wait.signal, wait.prompt, _patience(wait)) for wait in request.waits),
        drain=request.drain,
    )


def _result(done: worker_pb.TaskCompletion) -> bytes:
    if not done.result_payload:
        return value_bytes(done.result)
    if done.HasField("result"):
        raise InvalidRequest([("completions.result", "must be unset with result_payload, which is the result then")])
    return named_result(done.result_payload.lower())


_LONGEST_WAIT = timedelta(days=366)


def _patience(wait: worker_pb.TaskWait) -> timedelta:
    return wait.timeout.ToTimedelta() if wait.HasField("timeout") else _LONGEST_WAIT


def _delay(failure: worker_pb.TaskFailure) -> timedelta | None:
    return failure.retry_delay.ToTimedelta() if failure.HasField("retry_delay") else None


def work_responses(message: SchedulerMessage) -> Iterator[bytes]:
    """What the scheduler tells a worker: a guildmesh.scheduler.v1.WorkResponse, serialized; several where one would be too large.

    Leases and acknowledgements are put together by hand, since a busy stream is made of them and of parts that all of a batch
    share; what is joined is one message, as protobuf reads it.
    """
    # Where there are several, the welcome and whatever ends runs come before what begins others.
    parts = [_rare_response(message).SerializeToString()] if message.has_rare() else []
    parts += [_ack(*ack) for ack in message.acks]
    parts += [_lease(lease) for lease in message.leases]
    if sum(map(len, parts)) <= _MOST_BYTES:
        yield b"".join(parts)
        return
    first, size = 0, 0
    for place, part in enumerate(parts):
        if place > first and size + len(part) > _MOST_BYTES:
            yield b"".join(parts[first:place])
            first, size = place, 0
        size += len(part)
    yield b"".join(parts[first:])


# Of one message to a worker; a lease alone may be somewhat more, and gRPC takes twice as much.
_MOST_BYTES = 8 << 20


def _rare_response(message: SchedulerMessage) -> worker_pb.WorkResponse:
    response = worker_pb.WorkResponse(drain=message.drain)
    if message.welcome is not None:
        response.welcome.lease_duration.FromTimedelta(message.welcome[0])
        response.welcome.heartbeat_interval.FromTimedelta(message.welcome[1])
    for task_id, attempt, reason in message.cancels:
        response.cancels.add(task_id=task_id, attempt=attempt, reason=reason)
    for task_id, attempt, step_id, refusal in message.refusals:
        response.refusals.add(task_id=task_id, attempt=attempt, step_id=step_id, reason=refusal.reason, message=refusal.message)
    for task_id, attempt in message.renewals:
        response.renewals.add(task_id=task_id, attempt=attempt)
    for task_id, attempt, sequence, refused in message.outputs:
        answer = response.outputs.add(task_id=task_id, attempt=attempt, sequence=sequence)
        if refused is not None:
            answer.reason, answer.message = refused.reason, refused.message
    if message.renew_token is not None:
        response.renew_token.expires_in.FromTimedelta(message.renew_token)
    return response


def _ack(task_id: str, attempt: int, step_id: str) -> bytes:
    if step_id or not 0 < attempt < 128 or len(task_id) != 36:
        return worker_pb.WorkResponse(
            acks=[worker_pb.TaskAck(task_id=task_id, attempt=attempt, step_id=step_id)]
        ).SerializeToString()
    return b"\x22\x28\x0a\x24%b\x10%c" % (task_id.encode(), attempt)


def _lease(lease: domain.Lease) -> bytes:
    """A WorkResponse with one lease."""
    run, context = lease.run, lease.context
    changing = _changing_part(run.state, run.attempt, run.progress, run.next_event_number - 1, lease.create_time, run.start_time)
    input_ = b"" if context is None else b"".join((b"\x32", varint(len(context)), context))
    size = len(lease.spec) + len(changing) + len(input_)
    rest = b"\x12" + duration(lease.remaining) + text(b"\x22", run.traceparent)
    if lease.steps:
        entries = (
            worker_pb.TaskStep(
                task_id=run.task_id, attempt=step.attempt, step_id=step.step_id, result=Value.FromString(step.result)
            )
            for step in lease.steps
        )
        rest += worker_pb.TaskLease(steps=entries).SerializeToString()
    if lease.dependencies:
        rest += worker_pb.TaskLease(dependencies=map(outcome_message, lease.dependencies)).SerializeToString()
    length = varint(size)
    return b"".join((b"\x12", varint(1 + len(length) + size + len(rest)), b"\x0a", length, lease.spec, changing, input_, rest))


@lru_cache(maxsize=1024)
def _changing_part(
    state: domain.State, attempt: int, progress: float, last_event_number: int, create_time: datetime, start_time: datetime | None
) -> bytes:
    """What of a running task's message is not in its spec."""
    return b"".join(
        (
            number(b"\x60", state),
            text(b"\x6a", state.status),
            number(b"\x70", attempt),
            b"\x79" + struct.pack("<d", progress) if progress else b"",
            number(b"\x90\x01", last_event_number),
            b"\xa2\x01",
            timestamp(create_time),
            b"" if start_time is None else b"\xaa\x01" + timestamp(start_time),
        )
    )


def value_bytes(value: Value) -> bytes:
    """The value, serialized; a Value that holds nothing (which JSON cannot say) is null."""
    if value.WhichOneof("kind") is None:
        value = Value(null_value=NULL_VALUE)
    return value.SerializeToString(deterministic=True)


@lru_cache(maxsize=256)
def _timestamp(moment: datetime) -> Timestamp:
    """The moment as a message, to be copied: the tasks of one batch share it."""
    stamp = Timestamp()
    stamp.FromDatetime(moment.astimezone(UTC))
    return stamp
