"""How long events take to Kafka, a process of its own: `python -m bench.event_reader BOOTSTRAP_SERVERS`.

A consumer as anyone would write it: aiokafka, `read_committed`, each record with its headers. The delay of an event is from the
time in its header `ce_time`, which the database's clock gave within the transaction, to the moment when this consumer has it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

import uvloop
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from bench.child import Answer, serve
from bench.events import KINDS, TOPIC
from bench.report import percentile

_BITS = {kind.encode(): 1 << place for place, kind in enumerate(KINDS)}
_ALL = (1 << len(KINDS)) - 1
_MOST = 5000
_PAUSE = 0.1


class Delays:
    """One consumer of all partitions, from the moment it was told to begin."""

    def __init__(self, bootstrap_servers: str) -> None:
        """Describes it; `open` connects."""
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap_servers, isolation_level="read_committed", enable_auto_commit=False, fetch_max_wait_ms=500
        )
        self._seen: dict[bytes, int] = {}
        self._repeats = 0
        self._records = 0
        self._bytes = 0
        self._begun = 0.0
        self._seconds: dict[int, list[float]] = {}
        self._newest = 0.0
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connects."""
        await self._consumer.start()
        found = await self._consumer._client.fetch_all_metadata()
        self._consumer.assign([TopicPartition(TOPIC, number) for number in found.partitions_for_topic(TOPIC)])

    async def close(self) -> None:
        """Disconnects."""
        await self._stop()
        await self._consumer.stop()

    async def handle(self, command: Answer) -> Answer:
        """`begin` reads from the end of the topic on; `expect` waits for three records each of `tasks`, and tells the delays."""
        if command["do"] == "begin":
            await self._stop()
            self._seen.clear()
            self._seconds.clear()
            self._repeats = self._records = self._bytes = 0
            await self._consumer.seek_to_end()
            # Positions are asked for when they are needed; what is published from now on must be behind them.
            for partition in self._consumer.assignment():
                await self._consumer.position(partition)
            self._begun = time.time()
            self._reading = asyncio.create_task(self._read())
            return {}
        wanted = int(command["tasks"]) * len(KINDS)
        async with asyncio.timeout(float(command["seconds"])):
            while self._records - self._repeats < wanted:
                await asyncio.sleep(_PAUSE)
                if self._reading is not None and self._reading.done():
                    self._reading.result()
        return self._told(int(command["tasks"]))

    async def _stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None

    async def _read(self) -> None:
        while True:
            found = await self._consumer.getmany(timeout_ms=200, max_records=_MOST)
            now = time.time()
            for records in found.values():
                self._take(records, now)

    def _take(self, records: Sequence[ConsumerRecord], now: float) -> None:
        delays = self._seconds.setdefault(int(now - self._begun), [])
        for record in records:
            headers = dict(record.headers)
            delays.append(now - _moment(headers["ce_time"]))
            bit = _BITS.get(headers["ce_type"], 0)
            before = self._seen.get(record.key, 0)
            if before & bit:
                self._repeats += 1
            self._seen[record.key] = before | bit
            self._bytes += len(record.value) + len(record.key) + sum(len(name) + len(value) for name, value in record.headers)
        self._records += len(records)
        if records:
            self._newest = time.monotonic()

    def _told(self, tasks: int) -> Answer:
        delays = [delay for each in self._seconds.values() for delay in each]
        return {
            "at": self._newest,
            "records": self._records,
            "bytes": self._bytes // max(1, self._records),
            "exact": len(self._seen) == tasks and not self._repeats and set(self._seen.values()) == {_ALL},
            "p50": percentile(delays, 0.5),
            "p99": percentile(delays, 0.99),
            "seconds": [
                [second, len(each), percentile(each, 0.5), percentile(each, 0.99)]
                for second, each in sorted(self._seconds.items())
            ],
        }


@lru_cache(maxsize=4096)
def _moment(text: bytes) -> float:
    """Seconds since 1970 of an RFC 3339 time; the events of one commit share it."""
    return datetime.fromisoformat(text.decode()).timestamp()


async def main(bootstrap_servers: str) -> None:
    """Serves commands until standard input ends."""
    delays = Delays(bootstrap_servers)
    await delays.open()
    try:
        await serve(delays.handle)
    finally:
        await delays.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
