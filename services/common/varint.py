"""Protobuf's base-128 varints, for what is encoded by hand where many messages share most of their bytes."""

from __future__ import annotations


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_VARINTS = tuple(map(_varint, range(1 << 14)))


def varint(value: int) -> bytes:
    """A non-negative integer as a varint; nearly all are lengths and numbers of one or two bytes."""
    return _VARINTS[value] if value < 1 << 14 else _varint(value)
