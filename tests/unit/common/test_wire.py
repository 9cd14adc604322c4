"""What is put together by hand is what protobuf itself would write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.scheduler.v1 import task_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.common.wire import duration, message, number, text, timestamp, varint

TIMES = st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))


@given(TIMES)
def test_a_time_is_written_as_protobuf_writes_it(moment: datetime) -> None:
    expected = Timestamp()
    expected.FromDatetime(moment)
    data = expected.SerializeToString()
    assert timestamp(moment) == varint(len(data)) + data


@given(st.timedeltas(timedelta(), timedelta(days=10_000)))
def test_a_duration_is_written_as_protobuf_writes_it(length: timedelta) -> None:
    expected = Duration()
    expected.FromTimedelta(length)
    data = expected.SerializeToString()
    assert duration(length) == varint(len(data)) + data


@given(st.text(st.characters(codec="utf-8")), st.integers(0, 2**31 - 1))
def test_fields_are_written_as_protobuf_writes_them(value: str, count: int) -> None:
    written = text(b"\x2a", value) + number(b"\x70", count)
    assert written == task_pb2.Task(description=value, attempt=count).SerializeToString()


@given(st.binary(max_size=20_000))
def test_a_message_within_another_has_its_length_before_it(data: bytes) -> None:
    inner = Value(string_value="x" * len(data)).SerializeToString()
    assert task_pb2.Task.FromString(message(b"\x82\x01", inner)).result.SerializeToString() == inner
