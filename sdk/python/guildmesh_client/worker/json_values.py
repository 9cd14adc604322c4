"""JSON values as protobuf's Struct and Value."""

from __future__ import annotations

import json
import math
from typing import cast

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import NULL_VALUE, Struct, Value

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]

MAX_RESULT_BYTES = 1_048_576
"""bytes of a result as compact JSON in UTF-8 that the scheduler takes."""
_JSON_GROWTH = 7


def from_struct(struct: Struct) -> JsonObject:
    """The object in a Struct; whole numbers as int, as JSON wrote them."""
    return cast(JsonObject, _whole_numbers(json_format.MessageToDict(struct)))


def from_value(value: Value) -> JsonValue:
    """The value in a Value."""
    return _whole_numbers(json_format.MessageToDict(value)) if value.WhichOneof("kind") else None


def to_value(value: JsonValue) -> Value:
    """A Value of what a function gave.

    Raises:
        ValueError: it is not JSON, or larger than MAX_RESULT_BYTES.
    """
    if isinstance(value, Message):
        raise ValueError(f"a {type(value).__name__} is not a JSON value; give its fields as a dict")
    message = Value()
    try:
        _fill(message, value)
        # JSON is at most _JSON_GROWTH times longer than the protobuf encoding, so what is short need not be measured.
        small = message.ByteSize() * _JSON_GROWTH <= MAX_RESULT_BYTES
        size = 0 if small else len(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the result is not a JSON value: {error}") from error
    if size > MAX_RESULT_BYTES:
        raise ValueError(f"the result is {size:,} bytes as JSON; at most {MAX_RESULT_BYTES:,} are kept, store it elsewhere")
    return message


def _fill(message: Value, value: object) -> None:
    """Puts a value into an empty message; json_format.ParseDict does the same and takes ten times as long."""
    if isinstance(value, str):
        message.string_value = value
    elif value is None:
        message.null_value = NULL_VALUE
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int | float):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{value} is not a number in JSON")
        message.number_value = number
    elif isinstance(value, dict):
        message.struct_value.SetInParent()
        fields = message.struct_value.fields
        for name, item in value.items():
            if not isinstance(name, str):
                raise TypeError(f"{name!r} is not a name in JSON; names are strings")
            _fill(fields[name], item)
    elif isinstance(value, list | tuple):
        message.list_value.SetInParent()
        values = message.list_value.values
        for item in value:
            _fill(values.add(), item)
    else:
        raise TypeError(f"{type(value).__name__} is not a JSON type")


def _whole_numbers(value: JsonValue) -> JsonValue:
    if isinstance(value, float) and math.isfinite(value) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: _whole_numbers(item) for name, item in value.items()}
    return value
