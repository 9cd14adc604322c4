"""The exact bytes and headers of an event, made once, in the transaction that makes the event.

Headers: CloudEvents 1.0, Kafka binding, binary mode, with the extensions sequence and distributed tracing.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from guildmesh.events.v1 import task_event_pb2 as pb

from services.scheduler.domain.events import (
    Cancelled,
    Change,
    Completed,
    Created,
    Failed,
    Retried,
    Started,
    StepCompleted,
)
from services.scheduler.domain.run import Run

_SOURCE = "/guildmesh/scheduler"
_DATA_SCHEMA = "type.googleapis.com/guildmesh.events.v1.TaskEvent"


def encode_event(run: Run, number: int, change: Change, actor: str, now: datetime) -> bytes:
    """The serialized TaskEvent."""
    event = pb.TaskEvent(
        task_id=run.task_id,
        number=number,
        type=change.type,
        tenant_id=run.tenant_id,
        attempt=run.attempt,
        actor=actor,
        parent_task_id=run.parent_task_id or "",
        queue=run.queue,
        kind=run.kind,
    )
    event.event_time.FromDatetime(now)
    match change:
        case Created(description, priority, labels):
            event.created.description = description
            event.created.priority = priority
            event.created.labels.update(labels)
        case Started(worker_id):
            event.started.worker_id = worker_id
        case StepCompleted(step_id, result):
            event.step_completed.step_id = step_id
            event.step_completed.result.MergeFromString(result)
        case Retried(reason, message):
            event.retried.reason = reason
            event.retried.message = message
        case Completed(result):
            event.completed.result.MergeFromString(result)
        case Failed(reason, message):
            event.failed.reason = reason
            event.failed.message = message
        case Cancelled(cause):
            event.cancelled.cause = cause
    return event.SerializeToString(deterministic=True)


def encode_headers(run: Run, number: int, change: Change, now: datetime) -> str:
    """The record headers as a JSON array of [name, value]."""
    headers = [
        ["ce_specversion", "1.0"],
        ["ce_id", f"{run.task_id}/{number}"],
        ["ce_type", change.type],
        ["ce_source", _SOURCE],
        ["ce_subject", run.task_id],
        ["ce_time", now.astimezone(UTC).isoformat().replace("+00:00", "Z")],
        ["ce_sequence", f"{number:010d}"],
        ["ce_tenantid", run.tenant_id],
        ["content-type", "application/protobuf"],
        ["ce_dataschema", _DATA_SCHEMA],
    ]
    if run.traceparent:
        headers += [["traceparent", run.traceparent], ["ce_traceparent", run.traceparent]]
    return json.dumps(headers, ensure_ascii=False, separators=(",", ":"))


def encode_snapshot(run: Run, number: int, now: datetime) -> bytes:
    """The serialized TaskSnapshot after event `number`."""
    snapshot = pb.TaskSnapshot(
        task_id=run.task_id,
        tenant_id=run.tenant_id,
        state=run.state.name,
        queue=run.queue,
        kind=run.kind,
        priority=run.priority,
        attempt=run.attempt,
        last_event_number=number,
        parent_task_id=run.parent_task_id or "",
        error_reason=run.error_reason or "",
    )
    snapshot.update_time.FromDatetime(now)
    return snapshot.SerializeToString(deterministic=True)
