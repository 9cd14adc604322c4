"""JSON values as protobuf's Struct and Value."""

from __future__ import annotations

import json
import math
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]

MAX_RESULT_BYTES = 1_048_576
"""bytes of a result as compact JSON in UTF-8 that the scheduler takes."""


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
    try:
        size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode())
        message = json_format.ParseDict(cast(Any, value), Value())
    except (TypeError, ValueError, RecursionError, json_format.ParseError) as error:
        raise ValueError(f"the result is not a JSON value: {error}") from error
    if size > MAX_RESULT_BYTES:
        raise ValueError(f"the result is {size:,} bytes as JSON; at most {MAX_RESULT_BYTES:,} are kept, store it elsewhere")
    return message


def _whole_numbers(value: JsonValue) -> JsonValue:
    if isinstance(value, float) and math.isfinite(value) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: _whole_numbers(item) for name, item in value.items()}
    return value
