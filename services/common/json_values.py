"""JSON values as Python values."""

from __future__ import annotations

import json as _json

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]


def compact(value: JsonValue) -> str:
    """The value as JSON without blanks, the same text in every process.

    Names are sorted, and whole numbers have no fraction: protobuf's Struct keeps no order and knows only doubles.
    """
    return _json.dumps(whole_numbers(value), ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def size_of(value: JsonValue) -> int:
    """Bytes of the value as compact JSON in UTF-8 (requirement row 3)."""
    return len(compact(value).encode(errors="surrogatepass"))


def whole_numbers(value: JsonValue) -> JsonValue:
    """The value with 3.0 written 3 wherever a double holds a whole number exactly."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: whole_numbers(item) for name, item in value.items()}
    return value
