"""Counts a run's events on Kafka, a process of its own: `python -m bench.events BOOTSTRAP_SERVERS`.

It reads committed records only, and at first no more of them than the head of each record batch, which says how many records
the batch has: a consumer that decoded each record would take a third of the machine that it measures. When there are enough,
the moment is taken; only then is every record decoded and checked.
"""

from __future__ import annotations

import asyncio
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords

from bench.child import Answer, serve

TOPIC = "guildmesh.task-events.v1"
KINDS = ("guildmesh.task.created.v1", "guildmesh.task.started.v1", "guildmesh.task.completed.v1")
_READ_COMMITTED = 1
_MOST_BYTES = 16 << 20
_WAIT_MS = 100
# Kafka's record batch, version 2: base offset, length, leader epoch, magic, checksum, attributes, last offset delta, two times,
# producer id, producer epoch, base sequence, number of records.
_HEAD = struct.Struct(">qiibIhiqqqhii")
_TRANSACTIONAL = 0x10
_CONTROL = 0x20


@dataclass(frozen=True)
class Batch:
    """The head of a record batch, and all of it."""

    base_offset: int
    next_offset: int
    producer_id: int
    records: int
    control: bool
    transactional: bool
    content: bytes


def batches(message_set: bytes) -> Iterator[Batch]:
    """The whole batches in what a fetch gave; the last one may have been cut off."""
    place = 0
    while place + _HEAD.size <= len(message_set):
        head = _HEAD.unpack_from(message_set, place)
        base, length, attributes, last_delta, producer_id, records = head[0], head[1], head[5], head[6], head[9], head[12]
        end = place + 12 + length
        if end > len(message_set):
            return
        control, transactional = bool(attributes & _CONTROL), bool(attributes & _TRANSACTIONAL)
        yield Batch(base, base + last_delta + 1, producer_id, records, control, transactional, message_set[place:end])
        place = end


@dataclass
class Partition:
    """Where one partition is read, and what was read of it."""

    offset: int
    committed: list[Batch] = field(default_factory=list)
    _aborting: set[int] = field(default_factory=set)

    def take(self, message_set: bytes, aborted: list[tuple[int, int]]) -> int:
        """Keeps the committed batches; gives how many records they have."""
        count = 0
        open_aborts = sorted(aborted, key=lambda each: each[1])
        for batch in batches(message_set):
            while open_aborts and open_aborts[0][1] <= batch.base_offset:
                self._aborting.add(open_aborts.pop(0)[0])
            # A fetch may begin inside a batch that is known already.
            if batch.base_offset >= self.offset:
                if batch.control:
                    self._aborting.discard(batch.producer_id)
                elif not (batch.transactional and batch.producer_id in self._aborting):
                    self.committed.append(batch)
                    count += batch.records
            self.offset = max(self.offset, batch.next_offset)
        return count


class Counting:
    """One consumer of all partitions, from the moment it was told to begin."""

    def __init__(self, bootstrap_servers: str) -> None:
        """Describes it; `open` connects."""
        self._servers = bootstrap_servers
        self._client = AIOKafkaClient(bootstrap_servers=bootstrap_servers)
        self._partitions: dict[int, Partition] = {}
        self._count = 0
        self._newest = 0.0
        self._more = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connects."""
        await self._client.bootstrap()
        await self._client.set_topics([TOPIC])

    async def close(self) -> None:
        """Disconnects."""
        await self._stop()
        await self._client.close()

    async def handle(self, command: Answer) -> Answer:
        """`begin` reads from the end of the topic on; `expect` waits for three records a task of `tasks`, checks, stops."""
        if command["do"] == "begin":
            await self._stop()
            await self._begin()
            return {"partitions": len(self._partitions)}
        async with asyncio.timeout(float(command["seconds"])):
            return await self._expect(int(command["tasks"]))

    async def _begin(self) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._servers, isolation_level="read_committed")
        await consumer.start()
        try:
            found = [TopicPartition(TOPIC, number) for number in self._client.cluster.partitions_for_topic(TOPIC)]
            ends = await consumer.end_offsets(found)
        finally:
            await consumer.stop()
        self._partitions = {each.partition: Partition(offset) for each, offset in ends.items()}
        self._count = 0
        self._reading = asyncio.create_task(self._read())

    async def _stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None

    async def _read(self) -> None:
        while True:
            before = self._count
            await self._fetch()
            if self._count > before:
                self._newest = time.monotonic()
                self._more.set()

    async def _expect(self, tasks: int) -> Answer:
        wanted = tasks * len(KINDS)
        assert self._reading is not None
        while self._count < wanted:
            self._more.clear()
            more = asyncio.create_task(self._more.wait())
            await asyncio.wait({more, self._reading}, return_when=asyncio.FIRST_COMPLETED)
            if self._reading.done():
                self._reading.result()
        at = self._newest
        await self._stop()
        seen = self._decoded()
        ids = {task_id for task_id, _ in seen}
        # Each of the three exactly once: as many pairs as there must be, none of them twice.
        exact = len(ids) == tasks and len(seen) == wanted and set(seen.values()) == {1} and self._count == wanted
        return {"at": at, "records": self._count, "tasks": len(ids), "exact": exact}

    async def _fetch(self) -> None:
        nodes: dict[int, list[tuple[int, int, int]]] = {}
        for number, partition in self._partitions.items():
            leader = self._client.cluster.leader_for_partition(TopicPartition(TOPIC, number))
            nodes.setdefault(leader, []).append((number, partition.offset, _MOST_BYTES))
        for node, wanted in nodes.items():
            request = FetchRequest(_WAIT_MS, 1, _MOST_BYTES, _READ_COMMITTED, [(TOPIC, wanted)])
            response = await self._client.send(node, request)
            for _, answers in response.topics:
                for number, error, _highwater, *rest in answers:
                    if error:
                        raise RuntimeError(f"partition {number}: Kafka error {error}")
                    # rest: last stable offset, …, aborted transactions, (preferred replica from version 11,) records
                    aborted = rest[2] if response.API_VERSION >= 5 else rest[1]
                    self._count += self._partitions[number].take(rest[-1], aborted or [])

    def _decoded(self) -> Counter[tuple[bytes, str]]:
        seen: Counter[tuple[bytes, str]] = Counter()
        for partition in self._partitions.values():
            for batch in partition.committed:
                records = MemoryRecords(batch.content)
                while records.has_next():
                    for record in records.next_batch():
                        kind = next(value.decode() for name, value in record.headers if name == "ce_type")
                        seen[record.key, kind] += 1
        return seen


async def main(bootstrap_servers: str) -> None:
    """Serves commands until standard input ends."""
    counting = Counting(bootstrap_servers)
    await counting.open()
    try:
        await serve(counting.handle)
    finally:
        await counting.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
