"""Between the messages of guildmesh.scheduler.v1 and the domain."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

from google.api import field_behavior_pb2
from google.protobuf.struct_pb2 import NULL_VALUE, Value
from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.scheduler.v1 import scheduler_service_pb2 as service_pb
from guildmesh.scheduler.v1 import task_pb2 as pb
from guildmesh.scheduler.v1 import worker_service_pb2 as worker_pb

from services.common.ids import new_id
from services.scheduler.domain import task as domain
from services.scheduler.domain.task_filter import Condition, TaskFilter, parse_filter, parse_order
from services.scheduler.domain.worker import Hello, SchedulerMessage, WorkerMessage

_NO_LABELS: Mapping[str, str] = {}
_OUTPUT_ONLY = tuple(
    field.name
    for field in pb.Task.DESCRIPTOR.fields
    if field_behavior_pb2.OUTPUT_ONLY in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
)


_INPUT = {field.number for field in pb.Task.DESCRIPTOR.fields if field.name not in _OUTPUT_ONLY}


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


def new_task(request: service_pb.CreateTaskRequest, tenant_id: str, subject: str, traceparent: str) -> domain.NewTask:
    """The task of CreateTask, with its defaults; changes the request, which is the caller's no more."""
    task = request.task
    if not _INPUT.issuperset(field.number for field, _ in task.ListFields()):
        for name in _OUTPUT_ONLY:
            task.ClearField(name)  # type: ignore[arg-type]
    context = None
    if task.HasField("context"):
        context = task.context.SerializeToString(deterministic=True)
        task.ClearField("context")
    if not task.queue:
        task.queue = domain.DEFAULT_QUEUE
    if not task.kind:
        task.kind = domain.DEFAULT_KIND
    if not task.HasField("priority"):
        task.priority = domain.DEFAULT_PRIORITY
    if not task.HasField("max_attempts"):
        task.max_attempts = domain.DEFAULT_MAX_ATTEMPTS
    if not task.HasField("timeout"):
        task.timeout.seconds = domain.DEFAULT_TIMEOUT_MS // 1000
    if task.parent_task_id:
        task.parent_task_id = task.parent_task_id.lower()
    payload = task.SerializeToString(deterministic=True) if request.request_id else b""
    task_id = task.task_id = new_id()
    task.tenant_id = tenant_id
    task.created_by = subject
    return domain.NewTask(
        task_id=task_id,
        tenant_id=tenant_id,
        created_by=subject,
        spec=task.SerializeToString(),
        description=task.description,
        queue=task.queue,
        kind=task.kind,
        context=context,
        priority=task.priority,
        timeout_ms=task.timeout.ToMilliseconds(),
        max_attempts=task.max_attempts,
        parent_task_id=task.parent_task_id or None,
        parent_attempt=request.parent_attempt,
        labels=dict(task.labels) if task.labels else _NO_LABELS,
        request_id=request.request_id,
        payload=payload,
        traceparent=traceparent,
    )


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
        message.result.MergeFromString(task.result)
    if task.error_reason is not None:
        message.error.reason = task.error_reason
        message.error.message = task.error_message or ""
    if task.start_time is not None:
        message.start_time.CopyFrom(_timestamp(task.start_time))
    if task.finish_time is not None:
        message.finish_time.CopyFrom(_timestamp(task.finish_time))


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
        steps=tuple((step.task_id, step.attempt, step.step_id, _value_bytes(step.result)) for step in request.steps),
        completions=tuple((done.task_id, done.attempt, _value_bytes(done.result)) for done in request.completions),
        failures=tuple(
            (failure.task_id, failure.attempt, failure.error.reason, failure.error.message, failure.retryable)
            for failure in request.failures
        ),
        drain=request.drain,
    )


def work_response(message: SchedulerMessage) -> worker_pb.WorkResponse:
    """What the scheduler tells a worker."""
    response = worker_pb.WorkResponse(drain=message.drain)
    if message.welcome is not None:
        response.welcome.lease_duration.FromTimedelta(message.welcome[0])
        response.welcome.heartbeat_interval.FromTimedelta(message.welcome[1])
    for lease in message.leases:
        part = response.leases.add(traceparent=lease.task.traceparent)
        fill_task(part.task, lease.task)
        part.remaining.FromTimedelta(lease.remaining)
        for step in lease.steps:
            entry = part.steps.add(task_id=lease.task.task_id, attempt=step.attempt, step_id=step.step_id)
            entry.result.MergeFromString(step.result)
    for task_id, attempt, reason in message.cancels:
        response.cancels.add(task_id=task_id, attempt=attempt, reason=reason)
    for task_id, attempt, step_id in message.acks:
        response.acks.add(task_id=task_id, attempt=attempt, step_id=step_id)
    for task_id, attempt, step_id, refusal in message.refusals:
        response.refusals.add(task_id=task_id, attempt=attempt, step_id=step_id, reason=refusal.reason, message=refusal.message)
    for task_id, attempt in message.renewals:
        response.renewals.add(task_id=task_id, attempt=attempt)
    if message.renew_token is not None:
        response.renew_token.expires_in.FromTimedelta(message.renew_token)
    return response


def _value_bytes(value: Value) -> bytes:
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
