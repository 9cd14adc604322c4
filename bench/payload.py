"""What every peer carries: the same bytes in, the same bytes out."""

from __future__ import annotations

import json

BYTES_IN = 200
BYTES_OUT = 100
KIND = "bench.echo"
KIND_OF_ALL = "bench.echo-of-all"
"""of tasks of many tenants, which a worker of all runs."""
_FIELD = "payload"


def context() -> dict[str, str]:
    """A task's input: an object of exactly BYTES_IN bytes as compact JSON."""
    frame = len(json.dumps({_FIELD: ""}, separators=(",", ":")))
    return {_FIELD: "x" * (BYTES_IN - frame)}


def argument() -> str:
    """A task's input for peers that take a string: exactly BYTES_IN bytes."""
    return "x" * BYTES_IN


def echo(text: str) -> str:
    """A task's result from its input: a string of exactly BYTES_OUT bytes as JSON."""
    return text[: BYTES_OUT - 2]


def of(fields: dict[str, object]) -> str:
    """The text in a task's input."""
    return str(fields[_FIELD])
