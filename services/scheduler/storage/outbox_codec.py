"""What waits for Kafka: the events of one commit and lane in one row, in the order they were made."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_HEAD = struct.Struct(">BBII")
_ID_LENGTH = 36


@dataclass(slots=True)
class OutboxRecord:
    """One event to publish, and the state it led to; or a tombstone, which has neither."""

    shard: int
    task_id: str
    traceparent: str
    value: bytes
    """guildmesh.events.v1.TaskEvent, serialized."""
    snapshot: bytes
    """guildmesh.events.v1.TaskSnapshot, serialized."""

    @property
    def tombstone(self) -> bool:
        """Whether it says that the task is gone."""
        return not self.value


def pack(shard: int, task_id: str, traceparent: str, value: bytes, snapshot: bytes) -> bytes:
    """A record as it stands in a row."""
    trace = traceparent.encode()
    return _HEAD.pack(shard, len(trace), len(value), len(snapshot)) + task_id.encode() + trace + value + snapshot


def pack_tombstone(shard: int, task_id: str) -> bytes:
    """A tombstone as it stands in a row."""
    return pack(shard, task_id, "", b"", b"")


def unpack(payload: bytes) -> Iterator[OutboxRecord]:
    """The records of a row."""
    place = 0
    while place < len(payload):
        shard, trace, value, snapshot = _HEAD.unpack_from(payload, place)
        ends = [place := place + size for size in (_HEAD.size, _ID_LENGTH, trace, value, snapshot)]
        yield OutboxRecord(
            shard=shard,
            task_id=payload[ends[0] : ends[1]].decode(),
            traceparent=payload[ends[1] : ends[2]].decode(),
            value=payload[ends[2] : ends[3]],
            snapshot=payload[ends[3] : ends[4]],
        )
