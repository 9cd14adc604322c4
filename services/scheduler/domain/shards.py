"""Which shard a task belongs to: the partition that Kafka's own default partitioner gives to the key `task_id`.

One shard of the outbox is so exactly one partition of each topic, and a consumer that partitions by key agrees with us.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

SHARDS = 16
LANES = 4
"""Shard s belongs to lane s mod LANES (docs/decisions/0005-relay.md)."""
_ID_LENGTH = 36
# For fewer, calling numpy takes longer than counting.
_FEW = 20
_M = np.uint32(0x5BD1E995)
_SEED = np.uint32(0x9747B28C ^ _ID_LENGTH)


def shard_of(task_id: str) -> int:
    """The shard of a task, 0..15."""
    return shards_of([task_id])[0]


def shards_of(task_ids: Sequence[str]) -> list[int]:
    """The shards of many tasks, each an id of 36 characters: all at once, since a loop over bytes is slow in Python."""
    if len(task_ids) < _FEW:
        return [_murmur2_of_one(task_id.encode("ascii")) % SHARDS for task_id in task_ids]
    words = np.frombuffer("".join(task_ids).encode("ascii"), dtype="<u4").reshape(len(task_ids), _ID_LENGTH // 4)
    shards: list[int] = ((murmur2(words) & np.uint32(0x7FFFFFFF)) % SHARDS).tolist()
    return shards


def murmur2(words: np.ndarray) -> np.ndarray:
    """MurmurHash2, 32 bits, with Apache Kafka's seed, of each row of 9 little-endian words.

    As org.apache.kafka.common.utils.Utils.murmur2; unsigned integers wrap around as it wants them to.
    """
    h = np.full(len(words), _SEED, dtype=np.uint32)
    for column in range(words.shape[1]):
        k = words[:, column] * _M
        h = (h * _M) ^ ((k ^ (k >> np.uint32(24))) * _M)
    h = (h ^ (h >> np.uint32(13))) * _M
    return h ^ (h >> np.uint32(15))


def _murmur2_of_one(task_id: bytes) -> int:
    h = int(_SEED)
    for k in struct.unpack("<9I", task_id):
        k = k * 0x5BD1E995 & 0xFFFFFFFF
        h = h * 0x5BD1E995 & 0xFFFFFFFF ^ (k ^ k >> 24) * 0x5BD1E995 & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return (h ^ h >> 15) & 0x7FFFFFFF


def lane_of(shard: int) -> int:
    """The lane of a shard, 0..3."""
    return shard % LANES
