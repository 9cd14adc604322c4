"""The outbox, and the lanes in which relays publish it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import psycopg2.extensions
from google.protobuf.message import DecodeError
from guildmesh.events.v1.task_event_pb2 import TaskEvent, TaskSnapshot

from services.embedded.data_check.finding import DataFinding, short
from services.embedded.data_check.reading import read_rows
from services.scheduler.domain.event_content import EventContent
from services.scheduler.domain.shards import lane_of, shards_of
from services.scheduler.storage.event_log import split
from services.scheduler.storage.outbox_codec import unpack
from services.scheduler.storage.published_event import published_event

_OUTBOX = "SELECT lane, position, events, payload FROM outbox ORDER BY lane, position"
_LOGS = """
SELECT task_id::text, log FROM tasks WHERE task_id = ANY(%s::uuid[])
UNION ALL SELECT task_id::text, log FROM finished_tasks WHERE task_id = ANY(%s::uuid[])
"""
_LONG_LOGS = "SELECT task_id::text, value FROM task_events WHERE task_id = ANY(%s::uuid[]) ORDER BY task_id, number"


def check_outbox(connection: psycopg2.extensions.connection) -> DataFinding:
    """What waits for Kafka is what the logs have, in their order, in the right lane."""
    finding = DataFinding("outbox")
    newest: dict[str, int] = {}
    # Of several events of a task in one commit only the last has the state.
    stateless: dict[str, int] = {}
    leaving = read_rows(
        connection,
        "SELECT lower_id::text, upper_id::text FROM task_partitions WHERE detach_time IS NOT NULL AND lower_id IS NOT NULL",
    )
    for lane, position, events, payload in read_rows(connection, _OUTBOX):
        finding.rows += 1
        where = f"lane {lane}, position {position}"
        try:
            records = list(unpack(bytes(payload)))
            told = [TaskEvent.FromString(record.value) for record in records]
            states = [TaskSnapshot.FromString(record.snapshot) for record in records]
        except (DecodeError, struct.error, UnicodeDecodeError) as error:
            finding.bad(f"{where}: cannot be read: {error}")
            continue
        if events != len(records):
            finding.bad(f"{where}: should hold {events} events, and holds {len(records)}")
        kept = _logs_of(connection, sorted({record.task_id for record in records}))
        shards = shards_of([record.task_id for record in records]) if records else []
        for record, event, state, shard in zip(records, told, states, shards, strict=True):
            task_id = record.task_id
            if record.shard != shard or lane_of(shard) != lane:
                finding.bad(f"{task_id}: waits in {where} as shard {record.shard}, and belongs to shard {shard}")
            if record.tombstone or any(lower <= task_id < upper for lower, upper in leaving):
                continue
            if not _as_logged(record.value, event, kept.get(task_id, set())):
                finding.bad(f"{task_id}: number {event.number} waits for Kafka, and is not what its log has")
            stateless.pop(task_id, None)
            if not record.snapshot:
                stateless[task_id] = event.number
            elif (state.task_id, state.last_event_number) != (event.task_id, event.number):
                finding.bad(f"{task_id}: number {event.number} waits with the state after {state.last_event_number}")
            before = newest.get(task_id, 0)
            if before and event.number != before + 1:
                finding.bad(f"{task_id}: number {event.number} waits behind {before}")
            newest[task_id] = event.number
    for task_id, number in stateless.items():
        finding.bad(f"{task_id}: number {number} waits without a state, and nothing that has one follows")
    if finding.rows:
        finding.note = f"{finding.rows} rows wait for Kafka; whether a relay takes them can be told when all is quiet"
    return finding


def _as_logged(value: bytes, event: TaskEvent, kept: set[bytes]) -> bool:
    """Whether a record is an event of the log, or what Kafka may have of one."""
    if value in kept or not event.content:
        return value in kept
    content = EventContent(event.content)
    if content is EventContent.OMIT:
        # Also what is too large for a record and left out of it alone.
        return any(value in (published_event(each, way).value for way in (content, EventContent.PLAIN)) for each in kept)
    bare = TaskEvent.FromString(value)
    bare.ClearField("encrypted_event")
    bare.ClearField("data_key_id")
    return any(TaskEvent.FromString(published_event(each, content).value) == bare for each in kept)


def _logs_of(connection: psycopg2.extensions.connection, task_ids: Sequence[str]) -> dict[str, set[bytes]]:
    found: dict[str, set[bytes]] = {}
    for task_id, log in read_rows(connection, _LOGS, list(task_ids), list(task_ids)):
        found.setdefault(task_id, set()).update(split(bytes(log)))
    for task_id, value in read_rows(connection, _LONG_LOGS, list(task_ids)):
        found.setdefault(task_id, set()).add(bytes(value))
    return found


_LANES = "SELECT lane, owner IS NOT NULL AND lease_expires > clock_timestamp() FROM relay_lanes ORDER BY lane"


def check_lanes(connection: psycopg2.extensions.connection) -> DataFinding:
    """Somebody publishes each lane."""
    rows = read_rows(
        connection, "SELECT lane, owner IS NOT NULL AND lease_expires > clock_timestamp() FROM relay_lanes ORDER BY lane"
    )
    finding = DataFinding("relay lanes", len(rows))
    free = [lane for lane, published in rows if not published]
    if not rows:
        finding.bad("there are no lanes, so nothing would ever be published")
    if free:
        finding.note = f"nobody publishes the lanes {short(free)} now; start a relay if that lasts"
    return finding
