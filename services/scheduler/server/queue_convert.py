"""Between the messages of QueueService and the domain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC
from typing import Any

from guildmesh.events.v1 import task_event_pb2 as event_pb
from guildmesh.scheduler.v1 import queue_pb2 as pb
from guildmesh.scheduler.v1 import queue_service_pb2 as service_pb
from guildmesh.scheduler.v1 import scheduler_service_pb2, task_pb2

from services.common.errors import InvalidRequest
from services.scheduler.domain import queue as domain
from services.scheduler.domain.event_content import EventContent
from services.scheduler.domain.task import State
from services.scheduler.server.convert import encoded_retry


def new_queue(request: service_pb.CreateQueueRequest, tenant_id: str) -> domain.Queue:
    """The queue of CreateQueue with its defaults; raises InvalidRequest."""
    if not request.queue.queue:
        raise InvalidRequest([("queue.queue", "must be the name of the new queue")])
    owner = domain.EVERY_TENANT if request.shared else tenant_id
    return domain.Queue(queue=request.queue.queue, tenant_id=owner, **_values(request.queue, list(_READ)))


def queue_changes(request: service_pb.UpdateQueueRequest) -> Mapping[str, object]:
    """What UpdateQueue changes, by attributes of the domain's queue; raises InvalidRequest."""
    message = request.queue
    if not message.queue:
        raise InvalidRequest([("queue.queue", "must name the queue to change")])
    paths = list(request.update_mask.paths)
    if paths == ["*"]:
        paths = list(_READ)
    elif not paths:
        paths = [field.name for field, _ in message.ListFields() if field.name in _READ]
        if not paths:
            raise InvalidRequest([("update_mask", f"must name what to change: one or more of {', '.join(_READ)}")])
    unknown = [path for path in paths if path not in _READ]
    if unknown:
        raise InvalidRequest([("update_mask", f"{unknown[0]!r} cannot be changed; what can is {', '.join(_READ)}")])
    return _values(message, paths)


def queue_message(queue: domain.Queue, *, weights: bool) -> pb.Queue:
    """The queue as a caller sees it; its weights name other tenants."""
    message = pb.Queue(
        queue=queue.queue,
        priority=queue.priority,
        paused=queue.paused,
        max_running=queue.max_running,
        max_running_per_key=queue.max_running_per_key,
        max_attempts=queue.max_attempts,
        retention_days=queue.retention_days,
        dead_letter_retention_days=queue.dead_letter_retention_days,
        tenant_weights=queue.tenant_weights if weights else {},
        shared=queue.shared,
        limits_in_force=queue.limits_in_force,
        event_content=event_pb.EventContent.ValueType(queue.event_content or 0),
        etag=queue.etag,
    )
    if queue.rate_per_second is not None:
        message.rate_limit.per_second = queue.rate_per_second
        if queue.rate_burst is not None:
            message.rate_limit.burst = queue.rate_burst
    if queue.retry is not None:
        message.retry_policy.CopyFrom(task_pb2.Task.FromString(queue.retry_spec).retry_policy)
    if queue.create_time is not None:
        message.create_time.FromDatetime(queue.create_time.astimezone(UTC))
    if queue.update_time is not None:
        message.update_time.FromDatetime(queue.update_time.astimezone(UTC))
    return message


def counts_message(
    queues: Mapping[str, Mapping[str, int]], states: Iterable[State] = State
) -> scheduler_service_pb2.CountTasksResponse:
    """The counts of each queue by the plan's status words of some states, and their sums."""
    response = scheduler_service_pb2.CountTasksResponse(counts={state.status: 0 for state in states})
    for queue, counts in queues.items():
        response.queues.add(queue=queue, counts=counts)
        for status, number in counts.items():
            response.counts[status] += number
    return response


def _values(message: pb.Queue, names: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in names:
        values |= _READ[name](message)
    return values


def _optional(name: str) -> Callable[[pb.Queue], dict[str, Any]]:
    return lambda message: {name: getattr(message, name) if message.HasField(name) else None}  # type: ignore[arg-type]


def _rate(message: pb.Queue) -> dict[str, Any]:
    limit = message.rate_limit
    return {
        "rate_per_second": limit.per_second if message.HasField("rate_limit") else None,
        "rate_burst": limit.burst if limit.HasField("burst") else None,
    }


_READ: Mapping[str, Callable[[pb.Queue], dict[str, Any]]] = {
    "priority": lambda message: {"priority": message.priority or domain.DEFAULT_QUEUE_PRIORITY},
    "max_running": _optional("max_running"),
    "max_running_per_key": _optional("max_running_per_key"),
    "rate_limit": _rate,
    "max_attempts": _optional("max_attempts"),
    "retry_policy": lambda message: {"retry": encoded_retry(message.retry_policy) if message.HasField("retry_policy") else None},
    "retention_days": _optional("retention_days"),
    "dead_letter_retention_days": _optional("dead_letter_retention_days"),
    "event_content": lambda message: {"event_content": EventContent(message.event_content) if message.event_content else None},
    "tenant_weights": lambda message: {"tenant_weights": dict(message.tenant_weights)},
}
"""How each field that somebody may choose is read, with its default."""
