"""JSON values as protobuf's Struct and Value."""

from __future__ import annotations

from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct, Value

from services.common.json_values import JsonObject, JsonValue, whole_numbers


def struct_to_json(struct: Struct) -> JsonObject:
    """The object in a Struct; whole numbers as int, as JSON wrote them."""
    return cast(JsonObject, whole_numbers(json_format.MessageToDict(struct)))


def value_to_json(value: Value) -> JsonValue:
    """The value in a Value; None for one that holds nothing."""
    return whole_numbers(json_format.MessageToDict(value)) if value.WhichOneof("kind") else None


def json_to_struct(value: JsonObject) -> Struct:
    """A Struct of an object."""
    return json_format.ParseDict(value, Struct())


def json_to_value(value: JsonValue) -> Value:
    """A Value of a JSON value."""
    return json_format.ParseDict(cast(Any, value), Value())
