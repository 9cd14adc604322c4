"""JSON values that a tool gives, made fit for the wire.

What comes out of a sandbox is not to be trusted: it may hold lone surrogates, numbers that a google.protobuf.Value cannot
carry, or nest deeper than a protobuf parser goes (100 messages, of which one level of an object takes three).
"""

from __future__ import annotations

import math

from services.tool.domain.model import JSON

MAX_DEPTH = 32
MAX_SAFE_INTEGER = 2**53
"""A JSON number on the wire is an IEEE 754 double, which holds integers exactly up to here (RFC 8259, section 6)."""


class NotJson(ValueError):
    """The value cannot travel; the message says why."""


def clean_text(text: str) -> str:
    """`text` with every lone surrogate replaced by U+FFFD, so that it can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def clean_json(value: object, depth: int = MAX_DEPTH) -> JSON:
    """`value` in a form that google.protobuf.Value carries; an integer beyond 2^53 becomes a string, so that no digit is lost.

    Raises:
        NotJson: it is nested deeper than `depth`, or holds a number that is not finite, or something that is not JSON.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        return value if abs(value) <= MAX_SAFE_INTEGER else str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotJson(f"{value} is not a JSON number")
        return value
    if depth == 0:
        raise NotJson(f"it is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, list):
        return [clean_json(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {clean_text(str(key)): clean_json(item, depth - 1) for key, item in value.items()}
    raise NotJson(f"{type(value).__name__} is not a JSON type")
