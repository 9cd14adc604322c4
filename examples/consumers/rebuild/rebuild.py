"""Rebuilds the task table in SQLite from the compacted topic guildmesh.task-state.v1 alone, and keeps it as the topic goes on.

Bodies are there by size and SHA-256. The place in each partition lies in the same database and changes in the same transaction,
so it is started and killed as one likes: `python rebuild.py tasks.db`, or `--once` to end with what was there at the start.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from google.protobuf.descriptor import FieldDescriptor
from guildmesh.events.v1.task_event_pb2 import TaskSnapshot

TOPIC = os.environ.get("TOPIC", "guildmesh.task-state.v1")
SERVERS = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
# Every column that is published, by its name in the contract; that of a payload in three.
FIELDS: list[FieldDescriptor] = sorted(TaskSnapshot.DESCRIPTOR.fields, key=lambda field: field.number)
PAYLOAD = ("payload_id", "size_bytes", "sha256")
COLUMNS = [
    column
    for field in FIELDS
    for column in ([f"{field.name}_{part}" for part in PAYLOAD] if field.name == "result_payload" else [field.name])
]


def open_table(path: str) -> sqlite3.Connection:
    """The database, with its tables."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(f"CREATE TABLE IF NOT EXISTS tasks ({', '.join(COLUMNS)}, PRIMARY KEY (task_id))")
    database.execute("CREATE TABLE IF NOT EXISTS places (topic, partition, offset, PRIMARY KEY (topic, partition))")
    return database


def row_of(value: bytes) -> list[Any]:
    """A state as a row: times in ISO 8601, what is unset or empty as NULL."""
    state, row = TaskSnapshot.FromString(value), []
    present = {field.name for field, _ in state.ListFields()}
    for field in FIELDS:
        content = getattr(state, field.name)
        if field.name == "result_payload":
            row += [getattr(content, part) or None for part in PAYLOAD]
        elif field.message_type is not None:
            row.append(content.ToJsonString() if field.name in present else None)
        else:
            row.append(content or None)
    return row


def apply(database: sqlite3.Connection, batches: dict[TopicPartition, list[Any]]) -> None:
    """Takes what was read, and the place behind it, in one transaction."""
    database.execute("BEGIN")
    for partition, records in batches.items():
        for record in records:
            if record.value is None:
                database.execute("DELETE FROM tasks WHERE task_id = ?", [record.key.decode()])
            else:
                database.execute(f"REPLACE INTO tasks VALUES ({', '.join('?' * len(COLUMNS))})", row_of(record.value))
        place = [partition.topic, partition.partition, records[-1].offset + 1]
        database.execute("REPLACE INTO places VALUES (?, ?, ?)", place)
    database.execute("COMMIT")


async def main(path: str, *, once: bool) -> None:
    """Reads from where the database is."""
    database = open_table(path)
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=SERVERS, isolation_level="read_committed", auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = sorted(consumer.assignment())
        for partition, offset in database.execute("SELECT partition, offset FROM places WHERE topic = ?", [TOPIC]):
            consumer.seek(TopicPartition(TOPIC, partition), offset)
        ends = await consumer.end_offsets(partitions)
        while not once or any([await consumer.position(each) < ends[each] for each in partitions]):
            apply(database, await consumer.getmany(timeout_ms=500))
    finally:
        await consumer.stop()
        database.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", help="file of SQLite")
    parser.add_argument("--once", action="store_true", help="end with what was there at the start")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.database, once=arguments.once))
