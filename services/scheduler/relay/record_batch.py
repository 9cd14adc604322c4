"""Kafka's record batch, format 2 ("magic 2"), put together by hand: the records of one partition in one transaction.

aiokafka's own builder takes the headers of each record apart, name by name; ours takes them as bytes that are ready for the wire,
most of which are the same for many records. It offers what aiokafka asks of a builder that its `send_batch` is given, the methods
with an underscore included, which is why pyproject.toml holds aiokafka to its minor version.
"""

from __future__ import annotations

import struct
import time

from aiokafka.record.util import calc_crc32c

from services.common.wire import varint

# Base offset, length of what follows it, leader epoch, magic, checksum; then what the checksum covers: attributes, last offset
# delta, first and last time in ms, producer id, producer epoch, base sequence, number of records.
_HEAD = struct.Struct(">qiibIhiqqqhii")
_UNCOUNTED = 12
_UNCHECKED = 21
_MAGIC = 2
_UNKNOWN_EPOCH = -1
_TRANSACTIONAL = 0x10
# Attributes and the difference to the batch's time, which all records have.
_RECORD_HEAD = b"\0\0"
_NULL = b"\x01"
NO_HEADERS = b"\0"


def _signed_varint(value: int) -> bytes:
    return varint(value << 1)


_VARINTS = tuple(map(_signed_varint, range(1 << 12)))


def signed_varint(value: int) -> bytes:
    """A non-negative integer as Kafka writes a varint (zigzag)."""
    return _VARINTS[value] if value < 1 << 12 else _signed_varint(value)


def encode_headers(headers: list[tuple[str, bytes]]) -> bytes:
    """The headers of a record as they stand in it, their number before them."""
    parts = [signed_varint(len(headers))]
    for name, value in headers:
        key = name.encode()
        parts += (signed_varint(len(key)), key, signed_varint(len(value)), value)
    return b"".join(parts)


class RecordBatch:
    """Records of one transactional producer for one partition, in the order in which they are added."""

    __slots__ = ("_content", "_count", "_parts", "_producer", "_size")

    def __init__(self) -> None:
        self._parts = [bytes(_HEAD.size)]
        self._count = 0
        self._size = 0
        self._producer = (-1, -1, -1)
        self._content = bytearray()

    def add(self, key: bytes, value: bytes | None, headers: bytes) -> None:
        """Adds a record; no value is a tombstone, the headers are as `encode_headers` gives them."""
        length = _NULL if value is None else signed_varint(len(value))
        delta = signed_varint(self._count)
        record = b"".join((_RECORD_HEAD, delta, signed_varint(len(key)), key, length, value or b"", headers))
        self._parts += (signed_varint(len(record)), record)
        self._size += len(record)
        self._count += 1

    def size(self) -> int:
        """Bytes of its records."""
        return self._size

    def record_count(self) -> int:
        """How many records it has."""
        return self._count

    def close(self) -> None:
        """Nothing: what was handed to aiokafka gets no further records."""

    def closed(self) -> bool:
        """True: aiokafka need not wait for more."""
        return True

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = (producer_id, producer_epoch, base_sequence)

    def _build(self) -> bytearray:
        """The batch; the same bytes however often it is sent, since Kafka knows a repeat by its sequence number."""
        if not self._content:
            self._content = self._encode(int(time.time() * 1000))
            self._parts.clear()
        return self._content

    def _encode(self, now: int) -> bytearray:
        content = bytearray().join(self._parts)
        count, last = self._count, self._count - 1
        length = len(content) - _UNCOUNTED

        def head(checksum: int) -> None:
            fields = (_TRANSACTIONAL, last, now, now, *self._producer, count)
            _HEAD.pack_into(content, 0, 0, length, _UNKNOWN_EPOCH, _MAGIC, checksum, *fields)

        head(0)
        head(calc_crc32c(memoryview(content)[_UNCHECKED:]))
        return content
