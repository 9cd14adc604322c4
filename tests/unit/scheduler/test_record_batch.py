"""A batch put together by hand is what aiokafka's own reader reads, and its headers are those that the contract lists."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from guildmesh.events.v1 import task_event_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from services.common.ids import new_id
from services.scheduler.domain.events import Change
from services.scheduler.domain.run import Run
from services.scheduler.relay.headers import headers_of, headers_on_the_wire
from services.scheduler.relay.publisher import packed
from services.scheduler.relay.record_batch import NO_HEADERS, RecordBatch, encode_headers
from services.scheduler.relay.records import event_records, state_records
from services.scheduler.storage.event_codec import encode_event
from services.scheduler.storage.outbox_codec import OutboxRecord
from tests.unit.scheduler.test_event_codec import CHANGES, NAMES, RUNS, TIMES

HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=300)), max_size=5)
VALUES = st.none() | st.binary(max_size=20_000)
TRACES = st.sampled_from(["", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"])


def read(content: bytes | bytearray) -> tuple[Any, list[Any]]:
    """The one batch in a message set, its checksum checked, and its records."""
    records = MemoryRecords(bytes(content))
    batch = records.next_batch()
    assert batch.validate_crc()
    assert not records.has_next()
    return batch, list(batch)


@given(st.lists(st.tuples(st.binary(max_size=50), VALUES, HEADERS), min_size=1, max_size=20))
def test_records_are_read_as_they_were_added(added: list[tuple[bytes, bytes | None, list[tuple[str, bytes]]]]) -> None:
    built = RecordBatch()
    for key, value, headers in added:
        built.add(key, value, encode_headers(headers))
    assert built.record_count() == len(added)
    built._set_producer_state(1 << 40, 7, 12_345)
    content = built._build()
    batch, records = read(content)
    assert [(record.key, record.value, list(record.headers)) for record in records] == [
        (key, value, list(map(tuple, headers))) for key, value, headers in added
    ]
    assert [record.offset for record in records] == list(range(len(added)))
    assert batch.is_transactional
    assert not batch.is_control_batch
    assert batch.next_offset == len(added)
    assert struct.unpack_from(">qhi", content, 43) == (1 << 40, 7, 12_345)
    # A request that is sent again carries the same batch.
    assert built._build() is content


def test_a_batch_is_what_aiokafkas_own_builder_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = BatchBuilder(1 << 20, 0, is_transactional=1)
    ours = RecordBatch()
    monkeypatch.setattr("services.scheduler.relay.record_batch.time.time", lambda: 1_700_000_000.0)
    for number in range(300):
        headers = [("ce_id", b"%d" % number), ("é", b"")]
        theirs.append(timestamp=1_700_000_000_000, key=b"key", value=b"v" * number, headers=headers)
        ours.add(b"key", b"v" * number, encode_headers(headers))
    for batch in (theirs, ours):
        batch._set_producer_state(4, 2, 9)
    # But for the leader's epoch, which the broker sets and no checksum covers.
    assert ours._build()[16:] == theirs._build()[16:]
    assert ours._build()[:12] == theirs._build()[:12]


def test_a_batch_offers_what_aiokafka_asks_of_a_builder() -> None:
    asked = {name for name in vars(BatchBuilder) if not name.startswith("__")} - {"append", "_serialize"}
    assert asked <= set(dir(RecordBatch))
    batch = RecordBatch()
    batch.add(b"key", b"value", NO_HEADERS)
    batch.close()
    assert batch.closed()
    assert batch.size() > len(b"keyvalue")


@given(RUNS, st.integers(1, 300) | st.integers(1, 2**31 - 1), CHANGES, NAMES, TIMES, TRACES)
def test_headers_are_the_same_however_the_event_is_read(
    run: Run, number: int, change: Change, actor: str, now: datetime, trace: str
) -> None:
    value = encode_event(run, number, change, actor, now)
    wanted = encode_headers(headers_of(pb.TaskEvent.FromString(value), trace))
    assert headers_on_the_wire(run.task_id.encode(), value, trace.encode()) == wanted


@given(NAMES, st.integers(0, 200), NAMES, NAMES, st.none() | TIMES)
def test_headers_of_an_event_of_any_shape(task_id: str, number: int, type_: str, tenant: str, time: datetime | None) -> None:
    event = pb.TaskEvent(task_id=task_id, number=number, type=type_, tenant_id=tenant)
    if time is not None:
        event.event_time.FromDatetime(time)
    wanted = encode_headers(headers_of(event, ""))
    assert headers_on_the_wire(task_id.encode(), event.SerializeToString(), b"") == wanted


def record(task_id: str, number: int, size: int = 10) -> OutboxRecord:
    event = pb.TaskEvent(task_id=task_id, number=number, type="guildmesh.task.started.v1", tenant_id="acme", actor="a" * size)
    event.event_time.FromDatetime(datetime(2026, 11, 25, tzinfo=UTC))
    return OutboxRecord(3, task_id.encode(), b"", event.SerializeToString(), b"state %d" % number)


def test_events_keep_their_order_and_states_are_the_newest() -> None:
    one, two, gone = new_id(), new_id(), new_id()
    tombstone = OutboxRecord(3, gone.encode(), b"", b"", b"")
    records = [record(one, 1), record(two, 1), record(gone, 1), record(one, 2), tombstone]
    (events,) = packed(event_records(records))
    _, found = read(events._build())
    numbers = [(each.key.decode(), pb.TaskEvent.FromString(each.value).number) for each in found]
    assert numbers == [(one, 1), (two, 1), (gone, 1), (one, 2)]
    assert all(dict(each.headers)["ce_subject"] == each.key for each in found)
    (states,) = packed(state_records(records))
    _, found = read(states._build())
    assert {each.key.decode(): each.value for each in found} == {one: b"state 2", two: b"state 1", gone: None}


def test_much_is_split_and_nothing_makes_no_batch() -> None:
    task_id = new_id()
    records = [record(task_id, number, 400_000) for number in range(1, 8)]
    batches = list(packed(event_records(records)))
    assert len(batches) > 1
    read_back = [pb.TaskEvent.FromString(each.value).number for batch in batches for each in read(batch._build())[1]]
    assert read_back == list(range(1, 8))
    assert list(packed(event_records([OutboxRecord(3, task_id.encode(), b"", b"", b"")]))) == []


def test_an_event_that_another_of_its_commit_follows_has_no_state_and_is_no_tombstone() -> None:
    def states(*records: OutboxRecord) -> list[tuple[bytes | None, bytes | None]]:
        return [(record.key, record.value) for batch in packed(state_records(records)) for record in read(batch._build())[1]]

    first, last = (OutboxRecord(0, b"k" * 36, b"", value, state) for value, state in ((b"created", b""), (b"started", b"state")))
    assert states(first, last) == [(b"k" * 36, b"state")]
    assert states(first) == []
    assert states(first, last, OutboxRecord(0, b"k" * 36, b"", b"", b"")) == [(b"k" * 36, None)]
