"""Prints each event of a topic as a line of JSON, with its headers; started again, it goes on where it was."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

from aiokafka import AIOKafkaConsumer
from google.protobuf.json_format import MessageToDict
from guildmesh.events.v1.task_event_pb2 import TaskEvent

TOPIC = os.environ.get("TOPIC", "guildmesh.task-events.v1")
GROUP = os.environ.get("GROUP", "example-python")
SERVERS = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")


def line_of(record: Any) -> str:
    """A record as JSON."""
    headers = {name: value.decode() for name, value in record.headers}
    event = MessageToDict(TaskEvent.FromString(record.value), preserving_proto_field_name=True)
    place = {"partition": record.partition, "offset": record.offset, "key": record.key.decode()}
    return json.dumps({**place, "headers": headers, "event": event}, ensure_ascii=False)


async def main() -> None:
    """Reads until it is told to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    consumer = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=SERVERS,
        group_id=GROUP,
        isolation_level="read_committed",  # what a relay gave up half-way is not there
        auto_offset_reset="earliest",  # a group that is new begins at the beginning
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        while not stop.is_set():
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    print(line_of(record), flush=True)
            # After the work, so that nothing is passed over: what was done twice has the same ce_id.
            await consumer.commit()
    finally:
        await consumer.stop()


if __name__ == "__main__":
    asyncio.run(main())
