"""Which shard a task belongs to: the partition that Kafka's own default partitioner gives to the key `task_id`.

One shard of the outbox is so exactly one partition of each topic, and a consumer that partitions by key agrees with us.
"""

from __future__ import annotations

import struct

SHARDS = 16
_MASK = 0xFFFFFFFF
_M = 0x5BD1E995


def shard_of(task_id: str) -> int:
    """The shard of a task, 0..15."""
    return (murmur2(task_id.encode()) & 0x7FFFFFFF) % SHARDS


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with the seed that Apache Kafka uses (org.apache.kafka.common.utils.Utils.murmur2)."""
    length = len(data)
    whole = length & ~3
    h = 0x9747B28C ^ length
    for (k,) in struct.iter_unpack("<I", data[:whole]):
        k = (k * _M) & _MASK
        k = ((k ^ (k >> 24)) * _M) & _MASK
        h = ((h * _M) & _MASK) ^ k
    if length > whole:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return h ^ (h >> 15)
