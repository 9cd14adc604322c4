"""What Kafka does without us, with records of the same size: a program of aiokafka, and Kafka's own tool, to the same broker.

`python -m bench.kafka_alone BOOTSTRAP_SERVERS` is that program: it answers one command with its records per second.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
import uuid

import uvloop
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.child import Answer, serve
from bench.errors import BenchFailed
from services.embedded.parts.java import find_java
from services.embedded.parts.kafka_jars import kafka_jars
from tools.kafka_tools import kafka_tools_jar

TOPIC = "bench.reference"
_PARTITIONS = 16
_IN_FLIGHT = 5000
_HEADERS = [("ce_type", b"x" * 28), ("ce_id", b"x" * 38)]
_RATE = re.compile(r"([\d.]+) records/sec")


def broker_rate(bootstrap_servers: str, size: int, records: int) -> float:
    """Records per second by Kafka's own `kafka-producer-perf-test`, acknowledged by all replicas."""
    command = [
        str(find_java()), "-Xmx512m", "-cp", os.pathsep.join(str(jar) for jar in [*kafka_jars(), kafka_tools_jar()]),
        "org.apache.kafka.tools.ProducerPerformance", "--topic", TOPIC, "--num-records", str(records),
        "--record-size", str(size), "--throughput", "-1",
        "--producer-props", f"bootstrap.servers={bootstrap_servers}", "acks=all", "linger.ms=5",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    # Its last line is about the whole run.
    rates = _RATE.findall(done.stdout)
    if done.returncode or not rates:
        raise BenchFailed(f"kafka-producer-perf-test: {done.stdout[-500:]}{done.stderr[-500:]}")
    return float(rates[-1])


class Program:
    """Publishes one record after the other, as many at once as the library takes."""

    def __init__(self, bootstrap_servers: str) -> None:
        """Describes it."""
        self._servers = bootstrap_servers

    async def make_topic(self) -> None:
        """Makes the topic for both references."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(TOPIC, _PARTITIONS, 1)])
        finally:
            await admin.close()

    async def handle(self, command: Answer) -> Answer:
        """`topic` makes it; `produce` publishes `records` of `size` bytes and tells how many were acknowledged a second."""
        if command["do"] == "topic":
            await self.make_topic()
            return {}
        records, size = int(command["records"]), int(command["size"])
        headers = sum(len(name) + len(value) for name, value in _HEADERS)
        value = b"x" * max(1, size - headers - 36)
        keys = [str(uuid.uuid4()).encode() for _ in range(1000)]
        producer = AIOKafkaProducer(bootstrap_servers=self._servers, enable_idempotence=True, acks="all", linger_ms=5)
        await producer.start()
        try:
            begun = time.monotonic()
            for first in range(0, records, _IN_FLIGHT):
                many = min(_IN_FLIGHT, records - first)
                sent = [await producer.send(TOPIC, value, key=keys[place % 1000], headers=_HEADERS) for place in range(many)]
                await asyncio.gather(*sent)
            return {"rate": records / (time.monotonic() - begun)}
        finally:
            await producer.stop()


async def main(bootstrap_servers: str) -> None:
    """Serves commands until standard input ends."""
    await serve(Program(bootstrap_servers).handle)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
