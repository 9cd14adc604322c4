"""The events in a task's own row: one after another, each with its length before it.

A short log lies beside the state that it led to, so that a task is one row however many events it has; what comes after
INLINE_BYTES lies in `task_events`, a row an event.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

INLINE_BYTES = 4096
_LENGTH = struct.Struct(">I")


def frame(value: bytes) -> bytes:
    """An event as it stands in a log."""
    return _LENGTH.pack(len(value)) + value


def split(log: bytes) -> Iterator[bytes]:
    """The events of a log, oldest first: numbers 1, 2, 3 and so on."""
    place = 0
    while place < len(log):
        (size,) = _LENGTH.unpack_from(log, place)
        place += _LENGTH.size
        yield log[place : place + size]
        place += size
