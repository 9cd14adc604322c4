"""The records of the three topics: JSON says what protobuf says, and a dead letter what its failure says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import json_format
from guildmesh.events.v1 import dead_letter_pb2
from guildmesh.events.v1 import task_event_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from services.common.ids import new_id
from services.scheduler.adapters.event_json import event_bytes, to_json
from services.scheduler.domain.events import Change, Failed
from services.scheduler.domain.run import Run
from services.scheduler.relay.headers import tenant_of
from services.scheduler.relay.publisher import packed
from services.scheduler.relay.records import dead_letter_records, event_records, state_records
from services.scheduler.storage.event_codec import encode_event, encode_snapshot
from services.scheduler.storage.outbox_codec import OutboxRecord, pack_tombstone, unpack
from tests.unit.scheduler.test_event_codec import CHANGES, NAMES, RUNS, TIMES
from tests.unit.scheduler.test_record_batch import read

NUMBERS = st.integers(1, 2**31 - 1)
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def record(run: Run, number: int, change: Change, now: datetime, trace: bytes = TRACE) -> OutboxRecord:
    value, snapshot = encode_event(run, number, change, "ada", now), encode_snapshot(run, number, now)
    return OutboxRecord(run.shard, run.task_id.encode(), trace, value, snapshot)


def published(records: Any) -> list[Any]:
    return [each for batch in packed(records) for each in read(batch._build())[1]]


@given(RUNS, NUMBERS, CHANGES, TIMES)
def test_json_says_what_protobuf_says(run: Run, number: int, change: Change, now: datetime) -> None:
    mine = record(run, number, change, now)
    (plain,), (text,) = published(event_records([mine])), published(event_records([mine], json=True))
    assert plain.value == mine.value
    headers = dict(text.headers)
    if headers["content-type"] == b"application/json":
        assert pb.TaskEvent.FromString(event_bytes(text.value)) == pb.TaskEvent.FromString(mine.value)
        assert json.loads(text.value)["task_id"] == run.task_id
    else:
        # A number of a result that JSON has no word for.
        assert text.value == mine.value
    assert headers | {"content-type": b""} == dict(plain.headers) | {"content-type": b""}
    assert dict(plain.headers)["content-type"] == b"application/protobuf"


@given(RUNS, NUMBERS, CHANGES, TIMES)
def test_a_state_as_json_says_so(run: Run, number: int, change: Change, now: datetime) -> None:
    mine = record(run, number, change, now)
    (text,) = published(state_records([mine], json=True))
    assert json_format.Parse(text.value, pb.TaskSnapshot()) == pb.TaskSnapshot.FromString(mine.snapshot)
    assert dict(text.headers) == {"content-type": b"application/json"}
    (gone,) = published(state_records([mine, OutboxRecord(run.shard, mine.key, b"acme", b"", b"")], json=True))
    assert (gone.value, list(gone.headers)) == (None, [])


def test_what_json_cannot_say_goes_as_protobuf() -> None:
    event = pb.TaskEvent(task_id=new_id(), number=3, type="guildmesh.task.completed.v1", tenant_id="acme")
    event.event_time.GetCurrentTime()
    event.completed.result.number_value = float("nan")
    value = event.SerializeToString()
    (found,) = published(event_records([OutboxRecord(0, event.task_id.encode(), b"", value, b"")], json=True))
    assert found.value == value
    assert dict(found.headers)["content-type"] == b"application/protobuf"


def test_one_message_has_one_text() -> None:
    labels = {f"label-{number}": "x" for number in range(20)}
    one = pb.TaskEvent(task_id="t", created=pb.TaskCreated(labels=labels))
    two = pb.TaskEvent(task_id="t", created=pb.TaskCreated(labels=dict(reversed(labels.items()))))
    assert to_json(one) == to_json(two)
    assert b"\n" not in to_json(one)


@given(RUNS, NUMBERS, CHANGES, TIMES)
def test_failures_alone_make_dead_letters(run: Run, number: int, change: Change, now: datetime) -> None:
    letters = list(dead_letter_records([record(run, number, change, now)]))
    assert bool(letters) is isinstance(change, Failed)


@given(RUNS, NUMBERS, NAMES, NAMES, TIMES)
def test_a_dead_letter_says_what_the_failure_says(run: Run, number: int, reason: str, message: str, now: datetime) -> None:
    mine = record(run, number, Failed(reason, message), now)
    (plain,), (text,) = published(dead_letter_records([mine])), published(dead_letter_records([mine], json=True))
    letter = dead_letter_pb2.TaskDeadLettered.FromString(plain.value)
    assert (letter.task_id, letter.tenant_id, letter.queue, letter.kind) == (run.task_id, run.tenant_id, run.queue, run.kind)
    assert (letter.reason, letter.message, letter.attempts) == (reason, message, run.attempt)
    assert (letter.name, letter.event_number, letter.actor) == (f"dead-letters/{run.task_id}", number, "ada")
    assert letter.fail_time.ToDatetime(UTC) == now
    assert json_format.Parse(text.value, dead_letter_pb2.TaskDeadLettered()) == letter
    headers = {name: value.decode() for name, value in plain.headers}
    assert headers["ce_id"] == f"{run.task_id}/{number}/dead-letter"
    assert headers["ce_type"] == "guildmesh.task.dead_lettered.v1"
    assert headers["ce_dataschema"] == "type.googleapis.com/guildmesh.events.v1.TaskDeadLettered"
    assert headers["traceparent"] == TRACE.decode()
    # The same bytes however often they are made, and however the failure is published.
    assert published(dead_letter_records([mine])) is not None
    assert [each.value for each in published(dead_letter_records([mine]))] == [plain.value]


def test_a_dead_letter_knows_when_its_task_was_made() -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    event = pb.TaskEvent(task_id=new_id(), number=3, type="guildmesh.task.failed.v1", failed=pb.TaskFailed(reason="BROKEN"))
    ((_, value, _),) = dead_letter_records([OutboxRecord(0, event.task_id.encode(), b"", event.SerializeToString(), b"")])
    made = dead_letter_pb2.TaskDeadLettered.FromString(value or b"").create_time.ToDatetime(UTC)
    assert before <= made <= datetime.now(UTC)


@given(RUNS, NUMBERS, CHANGES, TIMES)
def test_the_tenant_of_a_record_is_known(run: Run, number: int, change: Change, now: datetime) -> None:
    assert tenant_of(encode_event(run, number, change, "ada", now)) == run.tenant_id
    (tombstone,) = unpack(pack_tombstone(run.shard, run.task_id, run.tenant_id))
    assert tombstone.tombstone
    assert tombstone.traceparent.decode() == run.tenant_id
