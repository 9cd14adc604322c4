"""What Kafka is sent of the records of the outbox: keys, values and headers of the three topics, in either format.

They are a function of the event and its trace context, so what is published again is the same to the last byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import structlog
from google.protobuf.json_format import SerializeToJsonError
from google.protobuf.message import Message
from guildmesh.events.v1.task_event_pb2 import TaskEvent, TaskSnapshot

from services.scheduler.adapters.event_json import to_json
from services.scheduler.relay.dead_letters import dead_letter_of, failures
from services.scheduler.relay.headers import JSON, PROTOBUF, dead_letter_headers, headers_of, headers_on_the_wire
from services.scheduler.relay.record_batch import NO_HEADERS, encode_headers
from services.scheduler.storage.outbox_codec import OutboxRecord

Packed = tuple[bytes, bytes | None, bytes]
"""Key, value (none is a tombstone), and headers as they stand in a record."""

log = structlog.get_logger(__name__)
_JSON_STATE = encode_headers([JSON])


def event_records(records: Iterable[OutboxRecord], *, json: bool = False) -> Iterator[Packed]:
    """The events, in order."""
    if json:
        return (json_event(key, trace, value) for _, key, trace, value, _ in records if value)
    return ((key, value, headers_on_the_wire(key, value, trace)) for _, key, trace, value, _ in records if value)


def state_records(records: Iterable[OutboxRecord], *, json: bool = False) -> Iterator[Packed]:
    """The newest state of each task, and a key without a value for one that is gone: compaction then forgets it."""
    # An event that another of the same commit followed has no state of its own, and is no tombstone either.
    newest = {record.key: record.snapshot for record in records if record.snapshot or not record.value}
    if json:
        return (_json_state(key, snapshot) for key, snapshot in newest.items())
    return ((key, snapshot or None, NO_HEADERS) for key, snapshot in newest.items())


def dead_letter_records(records: Iterable[OutboxRecord], *, json: bool = False) -> Iterator[Packed]:
    """A dead letter for each event that made one."""
    return (_dead_letter(key, trace, value, json) for _, key, trace, value, _ in failures(records))


def event_record(key: bytes, traceparent: bytes, value: bytes, *, json: bool = False) -> Packed:
    """One event, from its serialized TaskEvent."""
    return json_event(key, traceparent, value) if json else (key, value, headers_on_the_wire(key, value, traceparent))


def json_event(key: bytes, traceparent: bytes, value: bytes) -> Packed:
    """An event as JSON."""
    event = TaskEvent.FromString(value)
    content, content_type = _json_of(event, value)
    return key, content, encode_headers(headers_of(event, traceparent.decode(), content_type))


def _json_state(key: bytes, snapshot: bytes) -> Packed:
    if not snapshot:
        return key, None, NO_HEADERS
    content, content_type = _json_of(TaskSnapshot.FromString(snapshot), snapshot)
    return key, content, _JSON_STATE if content_type is JSON else NO_HEADERS


def _dead_letter(key: bytes, traceparent: bytes, value: bytes, json: bool) -> Packed:
    letter = dead_letter_of(value)
    content, content_type = letter.SerializeToString(deterministic=True), PROTOBUF
    if json:
        content, content_type = _json_of(letter, content)
    return key, content, encode_headers(dead_letter_headers(letter, traceparent.decode(), content_type))


def _json_of(message: Message, value: bytes) -> tuple[bytes, tuple[str, bytes]]:
    """The message as JSON; what JSON cannot say goes as protobuf, as its content-type then tells, and holds up nothing."""
    try:
        return to_json(message), JSON
    except SerializeToJsonError as error:
        log.warning("value_not_json", error=str(error))
        return value, PROTOBUF
