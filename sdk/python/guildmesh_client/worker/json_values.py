"""JSON values as protobuf's Struct and Value.

json_format does the same; it asks each message what it is, and takes three to ten times as long.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]
M = TypeVar("M", Value, Struct)
T = TypeVar("T")

MAX_RESULT_BYTES = 1_048_576
"""bytes of a result as compact JSON in UTF-8 that the scheduler takes."""
# What a character takes at most as JSON, and a value beside its characters: so what is short need not be measured.
_CHARACTER_BYTES = 6
_VALUE_BYTES = 32
_WHOLE_NUMBERS = 2**53


class TooLarge(ValueError):
    """A JSON value that has no room in a task's row: it is to be a payload."""


def from_struct(struct: Struct) -> JsonObject:
    """The object in a Struct; whole numbers as int, as JSON wrote them.

    Raises:
        ValueError: it holds infinity or NaN, which are not JSON.
    """
    fields = struct.fields
    return {name: from_value(fields[name]) for name in fields}


def from_value(value: Value) -> JsonValue:
    """The value in a Value, None for one that holds nothing; raises what `from_struct` does."""
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return _number(value.number_value)
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return from_struct(value.struct_value)
    if kind == "list_value":
        return [from_value(item) for item in value.list_value.values]
    return None


def to_value(value: JsonValue) -> Value:
    """A Value of what a function gave.

    Raises:
        ValueError: it is not JSON, or larger than MAX_RESULT_BYTES.
    """
    message = Value()
    put_value(message, value)
    return message


def put_value(message: Value, value: JsonValue) -> None:
    """Puts what a function gave into an empty Value, such as that of a larger message; raises what `to_value` does."""
    _put(_fill, message, value)


def put_large(message: Value, value: JsonValue) -> None:
    """Puts a JSON value of any size into an empty Value; raises ValueError or TypeError for what is none."""
    _fill(message, value)


def put_object(message: Struct, value: Mapping[str, JsonValue]) -> None:
    """Puts an object into an empty Struct, such as that of a larger message; raises what `to_value` does."""
    _put(_fill_struct, message, dict(value))


def _put(fill: Callable[[M, T], int], message: M, value: T) -> None:
    try:
        size = fill(message, value)
        if size > MAX_RESULT_BYTES:
            size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(value, Message):
            raise ValueError(f"a {type(value).__name__} is not a JSON value; give its fields as a dict") from error
        raise ValueError(f"the result is not a JSON value: {error}") from error
    if size > MAX_RESULT_BYTES:
        raise TooLarge(f"the result is {size:,} bytes as JSON; at most {MAX_RESULT_BYTES:,} are kept, store it elsewhere")


def _fill(message: Value, value: object) -> int:
    """Puts a value into an empty message, and gives how many bytes of JSON it is at most."""
    if isinstance(value, str):
        message.string_value = value
        return _VALUE_BYTES + _CHARACTER_BYTES * len(value)
    if value is None:
        message.null_value = NULL_VALUE
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int | float):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{value} is not a number in JSON")
        message.number_value = number
    elif isinstance(value, dict):
        return _fill_struct(message.struct_value, value)
    elif isinstance(value, list | tuple):
        return _fill_list(message.list_value, value)
    else:
        raise TypeError(f"{type(value).__name__} is not a JSON type")
    return _VALUE_BYTES


def _fill_struct(message: Struct, value: Mapping[Any, object]) -> int:
    message.SetInParent()
    fields = message.fields
    size = _VALUE_BYTES
    for name, item in value.items():
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is not a name in JSON; names are strings")
        size += _fill(fields[name], item) + _CHARACTER_BYTES * len(name)
    return size


def _fill_list(message: ListValue, value: list[object] | tuple[object, ...]) -> int:
    message.SetInParent()
    values = message.values
    size = _VALUE_BYTES
    for item in value:
        size += _fill(values.add(), item)
    return size


def _number(number: float) -> float:
    if number.is_integer() and abs(number) < _WHOLE_NUMBERS:
        return int(number)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a number in JSON")
    return number
