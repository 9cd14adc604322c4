"""The exact bytes of an event and of the state after it, made once, in the transaction that makes the event.

The parts that many events share (their type, tenant, queue, actor) are encoded once and remembered, and the rest is put around
them by hand, in the order of the field numbers: what comes out is what `SerializeToString` would give, at a quarter of the
price, and three events a task make this one of the hottest places of the scheduler.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

from guildmesh.events.v1 import task_event_pb2 as pb

from services.common.wire import message, number, text, timestamp
from services.scheduler.domain.events import (
    Cancelled,
    Change,
    ChildCreated,
    ChildEnded,
    Completed,
    Created,
    Failed,
    Output,
    Progressed,
    Ready,
    Retried,
    Signalled,
    Started,
    StepCompleted,
    ToolCalled,
    ToolReturned,
    Waiting,
)
from services.scheduler.domain.payload import PayloadReference, is_payload, reference_in
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import State
from services.scheduler.storage.published_event import reference_without_hash

# Wire type 2 (length-delimited) of the fields of TaskEvent.
_TASK_ID, _TYPE, _TENANT, _TIME, _ACTOR, _PARENT, _QUEUE, _KIND = (
    bytes([number << 3 | 2]) for number in (1, 3, 4, 5, 7, 8, 9, 10)
)
_NUMBER, _ATTEMPT = b"\x10", b"\x30"
# To look one up in its enum takes longer than to compare it.
_COMPLETED, _FAILED, _SCHEDULED, _WAITING = State.COMPLETED, State.FAILED, State.SCHEDULED, State.WAITING
# The first field of events and snapshots: a task id of 36 characters.
_ID = b"\x0a\x24"


def encode_reference(payload: PayloadReference) -> bytes:
    """The serialized PayloadReference."""
    return pb.PayloadReference(payload_id=payload.payload_id, size_bytes=payload.size, sha256=payload.sha256).SerializeToString()


def encode_event(run: Run, event_number: int, change: Change, actor: str, now: datetime) -> bytes:
    """The serialized TaskEvent."""
    parent = run.parent_task_id or ""
    middle = _middle(event_number, change.type, run.tenant_id, now, run.attempt, actor, parent, run.queue, run.kind)
    return b"".join((_ID, run.task_id.encode(), middle, _BODIES[type(change)](change)))


def encode_snapshot(run: Run, event_number: int, now: datetime, *, hashes: bool = True) -> bytes:
    """The serialized TaskSnapshot after event `event_number`; without `hashes` it does not tell what is in its texts."""
    first = _snapshot_first(run.tenant_id, run.state, run.queue, run.kind)
    last = _snapshot_last(event_number, run.parent_task_id or "", run.error_reason or "", now)
    state, particulars, error = run.state, b"", b""
    if state is _COMPLETED:
        result = run.result or b""
        particulars = _short_result(result, hashes) if len(result) <= _SHORT else _result(result, hashes)
    elif state is _FAILED:
        error = _digest(b"\x98\x01", b"\xa2\x01", (run.error_message or "").encode(), hashes)
    elif state is _SCHEDULED or state is _WAITING:
        particulars = _waits(run)
    times = _times(run.create_time, run.start_time)
    priority, attempt = number(b"\x30", run.priority), number(b"\x38", run.attempt)
    return b"".join((_ID, run.task_id.encode(), first, priority, attempt, last, particulars, times, error))


# The events that one batch makes of tasks of one kind differ in the id before and the body after this.
@lru_cache(maxsize=4096)
def _middle(
    event_number: int, type_: str, tenant_id: str, now: datetime, attempt: int, actor: str, parent_task_id: str, queue: str,
    kind: str,
) -> bytes:  # fmt: skip
    return b"".join(
        (
            number(_NUMBER, event_number),
            text(_TYPE, type_),
            text(_TENANT, tenant_id),
            _TIME,
            timestamp(now),
            number(_ATTEMPT, attempt),
            text(_ACTOR, actor),
            text(_PARENT, parent_task_id),
            text(_QUEUE, queue),
            text(_KIND, kind),
        )
    )


# Of many tenants, queues and priorities hardly two tasks of a batch are the same in everything.
@lru_cache(maxsize=4096)
def _snapshot_first(tenant_id: str, state: State, queue: str, kind: str) -> bytes:
    return b"".join((text(b"\x12", tenant_id), text(b"\x1a", state.name), text(b"\x22", queue), text(b"\x2a", kind)))


@lru_cache(maxsize=1024)
def _snapshot_last(event_number: int, parent_task_id: str, error_reason: str, now: datetime) -> bytes:
    return b"".join(
        (number(b"\x40", event_number), text(b"\x4a", parent_task_id), text(b"\x52", error_reason), b"\x5a", timestamp(now))
    )


# The tasks that were created together are mostly started together.
@lru_cache(maxsize=4096)
def _times(create_time: datetime, start_time: datetime | None) -> bytes:
    started = b"" if start_time is None else b"\x92\x01" + timestamp(start_time)
    return b"\x8a\x01" + timestamp(create_time) + started


def _waits(run: Run) -> bytes:
    signal = text(b"\x7a", run.signal or "") if run.state is _WAITING else b""
    return b"\x72" + timestamp(run.available_at) + signal


def _digest(size_tag: bytes, sha256_tag: bytes, body: bytes, hashes: bool) -> bytes:
    size = number(size_tag, len(body))
    return size + text(sha256_tag, hashlib.sha256(body).hexdigest()) if hashes else size


def _result(result: bytes, hashes: bool) -> bytes:
    if is_payload(result):
        reference = reference_in(result)
        return message(b"\x82\x01", reference if hashes else reference_without_hash(reference))
    return _digest(b"\x60", b"\x6a", result, hashes)


# Many tasks have the same short result.
_short_result = lru_cache(maxsize=4096)(_result)
_SHORT = 64


def _completed(change: Completed) -> bytes:
    if is_payload(change.result):
        return message(b"\xc2\x01", message(b"\x32", reference_in(change.result)))
    return message(b"\xc2\x01", message(b"\x0a", change.result))


def _step_completed(change: StepCompleted) -> bytes:
    step_id, result = change.step_id, change.result
    return message(b"\xb2\x01", text(b"\x0a", step_id) + message(b"\x12", result))


def _progressed(change: Progressed) -> bytes:
    return message(b"\xf2\x01", pb.TaskProgressed(progress=change.progress).SerializeToString())


def _output(change: Output) -> bytes:
    return message(b"\xfa\x01", number(b"\x08", change.sequence) + text(b"\x12", change.text))


def _retried(change: Retried) -> bytes:
    retried = pb.TaskRetried(reason=change.reason, message=change.message)
    if change.next_start_time is not None:
        retried.next_start_time.FromDatetime(change.next_start_time)
    return message(b"\xba\x01", retried.SerializeToString())


def _ready(change: Ready) -> bytes:
    ready = pb.TaskReady()
    if change.next_start_time is not None:
        ready.next_start_time.FromDatetime(change.next_start_time)
    return message(b"\xda\x01", ready.SerializeToString())


def _waiting(change: Waiting) -> bytes:
    waiting = pb.TaskWaiting(signal=change.signal, prompt=change.prompt)
    waiting.expire_time.FromDatetime(change.expire_time)
    return message(b"\xe2\x01", waiting.SerializeToString())


def _signalled(change: Signalled) -> bytes:
    value = b"\x18\x01" if change.value is None else message(b"\x12", change.value)
    return message(b"\xea\x01", text(b"\x0a", change.signal) + value + text(b"\x22", change.prompt))


def _failed(change: Failed) -> bytes:
    return message(b"\xca\x01", pb.TaskFailed(reason=change.reason, message=change.message).SerializeToString())


def _cancelled(change: Cancelled) -> bytes:
    return message(b"\xd2\x01", pb.TaskCancelled(cause=change.cause).SerializeToString())


def _child_created(change: ChildCreated) -> bytes:
    return message(b"\x82\x02", text(b"\x0a", change.child_task_id) + text(b"\x12", change.kind) + text(b"\x1a", change.queue))


def _child_ended(change: ChildEnded) -> bytes:
    child, kind, state = text(b"\x0a", change.child_task_id), text(b"\x12", change.kind), text(b"\x1a", change.state)
    return message(b"\x8a\x02", child + kind + state + text(b"\x22", change.reason))


def _told(field: bytes, change: ToolCalled | ToolReturned) -> bytes:
    return text(b"\x92\x01", change.source) + text(b"\x9a\x01", change.source_id) + message(field, change.body)


@lru_cache(maxsize=4096)
def _started(change: Started) -> bytes:
    return message(b"\xaa\x01", text(b"\x0a", change.worker_id))


def _created(change: Created) -> bytes:
    if change.labels or change.next_start_time is not None or change.dependency_ids or change.context_payload is not None:
        created = pb.TaskCreated(
            description=change.description,
            priority=change.priority,
            labels=change.labels,
            dependency_ids=change.dependency_ids,
        )
        if change.next_start_time is not None:
            created.next_start_time.FromDatetime(change.next_start_time)
        if change.context_payload is not None:
            created.context_payload.MergeFromString(encode_reference(change.context_payload))
        return message(b"\xa2\x01", created.SerializeToString(deterministic=True))
    return message(b"\xa2\x01", text(b"\x0a", change.description) + number(b"\x10", change.priority))


_BODIES: Mapping[type[Change], Callable[[Any], bytes]] = {
    Created: _created,
    Ready: _ready,
    Waiting: _waiting,
    Signalled: _signalled,
    Started: _started,
    Completed: _completed,
    StepCompleted: _step_completed,
    Progressed: _progressed,
    Output: _output,
    Retried: _retried,
    Failed: _failed,
    Cancelled: _cancelled,
    ChildCreated: _child_created,
    ChildEnded: _child_ended,
    ToolCalled: partial(_told, b"\x92\x02"),
    ToolReturned: partial(_told, b"\x9a\x02"),
}
