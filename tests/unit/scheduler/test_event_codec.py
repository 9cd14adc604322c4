"""What is put together by hand is what protobuf itself would write."""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.struct_pb2 import Value
from guildmesh.events.v1 import task_event_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from services.common.ids import new_id
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
from services.scheduler.domain.payload import PayloadReference
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import State
from services.scheduler.relay.headers import headers_of
from services.scheduler.storage.event_codec import encode_event, encode_snapshot
from services.scheduler.storage.event_log import frame, split
from services.scheduler.storage.outbox_codec import OutboxRecord, pack, unpack

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=200)
RESULTS = st.text(st.characters(codec="utf-8"), max_size=300).map(lambda text: Value(string_value=text).SerializeToString())
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))


def returned(error: str, result: str | None, traceparent: str) -> bytes:
    body = pb.TaskToolReturned(execution_id="x", error=error, traceparent=traceparent)
    if result is not None:
        body.result.string_value = result
    return body.SerializeToString()


CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.builds(
        Created,
        NAMES,
        st.integers(0, 10),
        st.dictionaries(NAMES, NAMES, max_size=3),
        st.none() | TIMES,
        st.lists(st.builds(new_id), max_size=3).map(tuple),
        st.none() | st.builds(PayloadReference, NAMES, st.integers(0, 2**40), NAMES),
    ),
    st.builds(Ready, st.none() | TIMES),
    st.builds(Waiting, NAMES, NAMES, TIMES),
    st.builds(Signalled, NAMES, st.none() | RESULTS, NAMES),
    st.builds(Started, NAMES),
    st.builds(StepCompleted, NAMES, RESULTS),
    st.builds(Progressed, st.floats(0, 1)),
    st.builds(Output, st.integers(1, 2**31 - 1), NAMES),
    st.builds(Retried, NAMES, NAMES, st.none() | TIMES),
    st.builds(Completed, RESULTS),
    st.builds(Failed, NAMES, NAMES),
    st.builds(Cancelled, NAMES),
    st.builds(ChildCreated, NAMES, NAMES, NAMES),
    st.builds(ChildEnded, NAMES, NAMES, NAMES, NAMES),
    st.builds(ToolCalled, NAMES, NAMES, st.builds(lambda name: pb.TaskToolCalled(tool_name=name).SerializeToString(), NAMES)),
    st.builds(ToolReturned, NAMES, NAMES, st.builds(returned, NAMES, st.none() | NAMES, NAMES)),
)
RUNS = st.builds(
    Run,
    tenant_id=NAMES, task_id=st.builds(new_id), shard=st.integers(0, 15), state=st.sampled_from(State), queue=NAMES, kind=NAMES,
    priority=st.integers(0, 10), attempt=st.integers(0, 2**31 - 1), max_attempts=st.just(5), timeout_ms=st.just(1000),
    next_event_number=st.just(1), has_children=st.just(False), parent_task_id=st.none() | st.builds(new_id),
    traceparent=st.just(""), available_at=TIMES, error_reason=st.none() | NAMES, create_time=TIMES, start_time=st.none() | TIMES,
    result=st.none() | RESULTS, error_message=st.none() | NAMES, signal=st.none() | NAMES,
)  # fmt: skip


def by_protobuf(run: Run, number: int, change: Change, actor: str, now: datetime) -> pb.TaskEvent:
    event = pb.TaskEvent(
        task_id=run.task_id, number=number, type=change.type, tenant_id=run.tenant_id, attempt=run.attempt, actor=actor,
        parent_task_id=run.parent_task_id or "", queue=run.queue, kind=run.kind,
    )  # fmt: skip
    event.event_time.FromDatetime(now)
    part: Any = getattr(event, change.type.split(".")[-2])
    part.SetInParent()
    for field in (each.name for each in dataclasses.fields(change)):
        value = getattr(change, field)
        if field == "result":
            part.result.MergeFromString(value)
            part.result.SetInParent()
        elif field == "value":
            part.timed_out = value is None
            if value is not None:
                part.value.MergeFromString(value)
                part.value.SetInParent()
        elif field == "body":
            part.MergeFromString(value)
        elif field in ("source", "source_id"):
            setattr(event, field, value)
        elif field == "expire_time":
            part.expire_time.FromDatetime(value)
        elif field == "labels":
            part.labels.update(value)
        elif field == "dependency_ids":
            part.dependency_ids.extend(value)
        elif field == "context_payload":
            if value is not None:
                part.context_payload.payload_id = value.payload_id
                part.context_payload.size_bytes, part.context_payload.sha256 = value.size, value.sha256
        elif field == "next_start_time":
            if value is not None:
                part.next_start_time.FromDatetime(value)
        else:
            setattr(part, field, value)
    return event


@given(RUNS, st.integers(1, 2**31 - 1), CHANGES, NAMES, TIMES)
def test_an_event_is_written_as_protobuf_writes_it(run: Run, number: int, change: Change, actor: str, now: datetime) -> None:
    event = by_protobuf(run, number, change, actor, now)
    encoded = encode_event(run, number, change, actor, now)
    assert pb.TaskEvent.FromString(encoded) == event
    assert encoded == event.SerializeToString(deterministic=True)


@given(RUNS, st.integers(1, 2**31 - 1), TIMES)
def test_a_snapshot_is_written_as_protobuf_writes_it(run: Run, number: int, now: datetime) -> None:
    snapshot = pb.TaskSnapshot(
        task_id=run.task_id, tenant_id=run.tenant_id, state=run.state.name, queue=run.queue, kind=run.kind,
        priority=run.priority, attempt=run.attempt, last_event_number=number, parent_task_id=run.parent_task_id or "",
        error_reason=run.error_reason or "",
    )  # fmt: skip
    snapshot.update_time.FromDatetime(now)
    snapshot.create_time.FromDatetime(run.create_time)
    if run.start_time is not None:
        snapshot.start_time.FromDatetime(run.start_time)
    if run.state in (State.SCHEDULED, State.WAITING):
        snapshot.next_start_time.FromDatetime(run.available_at)
    if run.state is State.WAITING:
        snapshot.waiting_signal = run.signal or ""
    if run.state is State.COMPLETED:
        snapshot.result_size_bytes = len(run.result or b"")
        snapshot.result_sha256 = hashlib.sha256(run.result or b"").hexdigest()
    if run.state is State.FAILED:
        message = (run.error_message or "").encode()
        snapshot.error_message_size_bytes, snapshot.error_message_sha256 = len(message), hashlib.sha256(message).hexdigest()
    assert encode_snapshot(run, number, now) == snapshot.SerializeToString(deterministic=True)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_a_log_is_split_as_it_was_joined(values: list[bytes]) -> None:
    assert list(split(b"".join(frame(value) for value in values))) == values


KEYS, TRACES = st.builds(lambda: new_id().encode()), st.text(max_size=60).map(str.encode)


@given(st.lists(st.builds(OutboxRecord, st.integers(0, 15), KEYS, TRACES, st.binary(), st.binary()), max_size=10))
def test_records_are_unpacked_as_they_were_packed(records: list[OutboxRecord]) -> None:
    payload = b"".join(pack(r.shard, r.task_id, r.traceparent.decode(), r.value, r.snapshot) for r in records)
    assert unpack(payload) == records


def test_the_headers_follow_from_the_event_alone() -> None:
    event = pb.TaskEvent(task_id="t", number=7, type="guildmesh.task.started.v1", tenant_id="acme")
    event.event_time.FromDatetime(datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC) + timedelta(microseconds=4))
    assert headers_of(event, "") == headers_of(pb.TaskEvent.FromString(event.SerializeToString()), "")
    assert dict(headers_of(event, "00-ab-cd-01")) == {
        "ce_specversion": b"1.0",
        "ce_id": b"t/7",
        "ce_type": b"guildmesh.task.started.v1",
        "ce_source": b"/guildmesh/scheduler",
        "ce_subject": b"t",
        "ce_time": b"2026-11-22T01:02:03.000004Z",
        "ce_sequence": b"0000000007",
        "ce_tenantid": b"acme",
        "content-type": b"application/protobuf",
        "ce_dataschema": b"type.googleapis.com/guildmesh.events.v1.TaskEvent",
        "traceparent": b"00-ab-cd-01",
        "ce_traceparent": b"00-ab-cd-01",
    }
