"""Protobuf's wire format by hand, where many messages share most of their bytes and are made for every task that passes.

What is put together so is held to protobuf's own encoding by property tests beside those who use it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_VARINTS = tuple(map(_varint, range(1 << 14)))


def varint(value: int) -> bytes:
    """A non-negative integer in base 128; nearly all are lengths and numbers of one or two bytes."""
    return _VARINTS[value] if value < 1 << 14 else _varint(value)


def message(tag: bytes, data: bytes) -> bytes:
    """A field of wire type 2: a message, bytes, or text as UTF-8."""
    return tag + varint(len(data)) + data


def text(tag: bytes, value: str) -> bytes:
    """A string field; nothing when it is empty, as in proto3."""
    return message(tag, value.encode()) if value else b""


def number(tag: bytes, value: int) -> bytes:
    """A field with a non-negative integer; nothing when it is 0, as in proto3."""
    return tag + varint(value) if value else b""


@lru_cache(maxsize=64)
def timestamp(moment: datetime) -> bytes:
    """A google.protobuf.Timestamp with its length before it; the events of one batch mostly share it."""
    since = moment - _EPOCH
    return _seconds_and_nanos(since)


@lru_cache(maxsize=256)
def duration(length: timedelta) -> bytes:
    """A google.protobuf.Duration, not negative, with its length before it."""
    return _seconds_and_nanos(length)


def _seconds_and_nanos(value: timedelta) -> bytes:
    seconds, nanos = value.days * 86_400 + value.seconds, value.microseconds * 1000
    data = number(b"\x08", seconds) + number(b"\x10", nanos)
    return varint(len(data)) + data
