"""What waits for Kafka: the events of one commit and lane in one row, in the order they were made."""

from __future__ import annotations

import struct
from typing import NamedTuple

_HEAD = struct.Struct(">BBII")
_ID_LENGTH = 36
_MOST_TRACE = 255


class OutboxRecord(NamedTuple):
    """One event to publish, and the state it led to; or a tombstone, which has neither. All of it as it goes to Kafka."""

    shard: int
    key: bytes
    """the task's id."""
    traceparent: bytes
    """the trace context; of an encrypted event then a space and the id of its key; of a tombstone: the task's tenant, since no
    value says it."""
    value: bytes
    """guildmesh.events.v1.TaskEvent, serialized; empty for a tombstone."""
    snapshot: bytes
    """guildmesh.events.v1.TaskSnapshot, serialized; empty for a tombstone, and for an event another of its commit follows."""

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.key.decode()

    @property
    def tombstone(self) -> bool:
        """Whether it says that the task is gone."""
        return not self.value


def pack(shard: int, task_id: str, traceparent: str, value: bytes, snapshot: bytes, key_id: str = "") -> bytes:
    """A record as it stands in a row."""
    trace = trace_of(traceparent, key_id) if key_id else traceparent.encode()
    return _HEAD.pack(shard, len(trace), len(value), len(snapshot)) + task_id.encode() + trace + value + snapshot


def trace_of(traceparent: str, key_id: str) -> bytes:
    """The trace context of a record, with the id of the key that its event is encrypted with, if any."""
    return f"{traceparent} {key_id}".encode() if key_id else traceparent.encode()


def pack_tombstone(shard: int, task_id: str, tenant_id: str) -> bytes:
    """A tombstone as it stands in a row; of a tenant's id no more than has room, which no id of identity's exceeds."""
    return pack(shard, task_id, tenant_id if len(tenant_id.encode()) <= _MOST_TRACE else "", b"", b"")


def unpack(payload: bytes) -> list[OutboxRecord]:
    """The records of a row."""
    records = []
    place, end = 0, len(payload)
    # Made as a tuple is: the constructor of a named one is a function of Python, and takes twice as long.
    head, after_head, make = _HEAD.unpack_from, _HEAD.size, tuple.__new__
    while place < end:
        shard, trace_size, value_size, snapshot_size = head(payload, place)
        trace = place + after_head + _ID_LENGTH
        value = trace + trace_size
        snapshot = value + value_size
        key = payload[place + after_head : trace]
        place = snapshot + snapshot_size
        fields = (shard, key, payload[trace:value], payload[value:snapshot], payload[snapshot:place])
        records.append(make(OutboxRecord, fields))
    return records
