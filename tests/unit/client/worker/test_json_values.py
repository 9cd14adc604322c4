"""What the library's own conversion gives is what json_format gives."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from guildmesh.scheduler.v1 import worker_service_pb2 as pb
from guildmesh_client.worker.json_values import MAX_RESULT_BYTES, _fill, from_struct, from_value, put_object, put_value, to_value
from hypothesis import given
from hypothesis import strategies as st

_TEXTS = st.text(max_size=8)
_NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=20,
)
_OBJECTS = st.dictionaries(_TEXTS, _VALUES, max_size=4)


def _whole(value: Any) -> Any:
    """The rule of whole numbers, said once more: JSON has no other way to write 3.0 as it was given."""
    if isinstance(value, float) and abs(value) < 2**53 and value == math.floor(value):
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    return value


@given(_VALUES)
def test_a_value_reads_as_json_format_reads_it(value: Any) -> None:
    message = json_format.ParseDict(value, Value())
    # As text, since 1, 1.0 and True are equal and not the same.
    assert repr(from_value(message)) == repr(_whole(json_format.MessageToDict(message)))


@given(_OBJECTS)
def test_a_struct_reads_as_json_format_reads_it(value: Any) -> None:
    message = json_format.ParseDict(value, Struct())
    assert repr(from_struct(message)) == repr(_whole(json_format.MessageToDict(message)))


@given(_VALUES)
def test_a_value_is_written_as_json_format_writes_it(value: Any) -> None:
    assert to_value(value) == json_format.ParseDict(value, Value())


@given(_OBJECTS)
def test_an_object_is_written_as_json_format_writes_it(value: Any) -> None:
    message = Struct()
    put_object(message, value)
    assert message == json_format.ParseDict(value, Struct())


@given(_VALUES)
def test_no_value_is_longer_than_what_it_was_reckoned_at(value: Any) -> None:
    most = _fill(Value(), value)
    assert len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) <= most


def test_what_holds_nothing_is_none() -> None:
    assert from_value(Value()) is None
    assert from_struct(Struct(fields={"empty": Value()})) == {"empty": None}
    assert from_value(Value(list_value=ListValue(values=[Value(), Value(bool_value=False)]))) == [None, False]


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_json_are_refused_as_json_format_refuses_them(number: float) -> None:
    struct = Struct(fields={"n": Value(number_value=number)})
    with pytest.raises(ValueError, match="number"):
        json_format.MessageToDict(struct)
    with pytest.raises(ValueError, match="not a number in JSON"):
        from_struct(struct)


def test_an_empty_object_or_list_is_there() -> None:
    completion = pb.TaskCompletion()
    put_value(completion.result, {})
    assert completion.result.WhichOneof("kind") == "struct_value"
    other = pb.TaskCompletion()
    put_value(other.result, [])
    assert other.result.WhichOneof("kind") == "list_value"


def test_the_limit_is_that_of_the_json_and_no_byte_less() -> None:
    frame = len('{"name":""}')
    put_object(Struct(), {"name": "x" * (MAX_RESULT_BYTES - frame)})
    with pytest.raises(ValueError, match="1,048,577 bytes"):
        put_object(Struct(), {"name": "x" * (MAX_RESULT_BYTES - frame + 1)})


@pytest.mark.parametrize("value", [{1: "x"}, {"a": {2: "x"}}, {"a": object()}, {"a": math.inf}, {"\ud800": 1}])
def test_what_is_no_json_object_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not a JSON value"):
        put_object(Struct(), value)


def test_a_message_is_refused_with_a_word_on_what_to_give_instead() -> None:
    with pytest.raises(ValueError, match="a TaskStep is not a JSON value; give its fields as a dict"):
        to_value(pb.TaskStep())  # type: ignore[arg-type]
