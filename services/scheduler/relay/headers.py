"""The headers of a record: CloudEvents 1.0, Kafka binding, binary mode, with the extensions sequence and distributed tracing.

They are a function of the event and its trace context alone, so a record that is published again is the same to the last byte.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from guildmesh.events.v1.dead_letter_pb2 import TaskDeadLettered
from guildmesh.events.v1.task_event_pb2 import TaskEvent

from services.scheduler.relay.record_batch import encode_headers

Headers = list[tuple[str, bytes]]

_SPEC_VERSION = ("ce_specversion", b"1.0")
_SOURCE = ("ce_source", b"/guildmesh/scheduler")
# In binary mode the attribute datacontenttype is Kafka's own header content-type, and no ce_datacontenttype stands beside it.
PROTOBUF = ("content-type", b"application/protobuf")
JSON = ("content-type", b"application/json")
_DATA_SCHEMA = ("ce_dataschema", b"type.googleapis.com/guildmesh.events.v1.TaskEvent")
_DEAD_LETTER_TYPE = ("ce_type", b"guildmesh.task.dead_lettered.v1")
_DEAD_LETTER_SCHEMA = ("ce_dataschema", b"type.googleapis.com/guildmesh.events.v1.TaskDeadLettered")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Where the fields of a serialized TaskEvent stand: the id (36 bytes), then the number with its tag.
_ID_ENDS = 38
_START, _NUMBER, _TYPE, _TENANT, _TIME = b"\x0a\x24", 0x10, 0x1A, 0x22, 0x2A
_ONE_BYTE = 0x80


def headers_of(event: TaskEvent, traceparent: str, content_type: tuple[str, bytes] = PROTOBUF) -> Headers:
    """The record headers of an event; behind a space the trace context may be followed by the id of the key that encrypts it."""
    traceparent, _, key_id = traceparent.partition(" ")
    task_id = event.task_id.encode()
    number = event.number
    time = event.event_time
    headers = [
        _SPEC_VERSION,
        ("ce_id", b"%b/%d" % (task_id, number)),
        ("ce_type", _bytes(event.type)),
        _SOURCE,
        ("ce_subject", task_id),
        ("ce_time", _time(time.seconds, time.nanos)),
        ("ce_sequence", b"%010d" % number),
        ("ce_tenantid", _bytes(event.tenant_id)),
        content_type,
        _DATA_SCHEMA,
    ]
    headers += _trace_headers(traceparent)
    if key_id:
        headers.append(("ce_datakeyid", key_id.encode()))
    return headers


def dead_letter_headers(letter: TaskDeadLettered, traceparent: str, content_type: tuple[str, bytes] = PROTOBUF) -> Headers:
    """The record headers of a dead letter, which has the sequence of the event that made it, and an id beside that one's.

    Nothing in it is encrypted, so of the trace context (see headers_of) the id of a key is left out.
    """
    task_id = letter.task_id.encode()
    headers = [
        _SPEC_VERSION,
        ("ce_id", b"%b/%d/dead-letter" % (task_id, letter.event_number)),
        _DEAD_LETTER_TYPE,
        _SOURCE,
        ("ce_subject", task_id),
        ("ce_time", _time(letter.fail_time.seconds, letter.fail_time.nanos)),
        ("ce_sequence", b"%010d" % letter.event_number),
        ("ce_tenantid", _bytes(letter.tenant_id)),
        content_type,
        _DEAD_LETTER_SCHEMA,
    ]
    return headers + _trace_headers(traceparent.partition(" ")[0])


def _trace_headers(traceparent: str) -> Headers:
    if not traceparent:
        return []
    trace = traceparent.encode()
    return [("traceparent", trace), ("ce_traceparent", trace)]


def headers_on_the_wire(key: bytes, value: bytes, traceparent: bytes) -> bytes:
    """What `encode_headers` makes of `headers_of` an event, from its bytes and the id of its task.

    An event is read only up to its time, and events that differ in their task alone, as those of one commit mostly do, share
    what comes of it.
    """
    end = _end_of_time(value)
    if end:
        before, between, after = _around_the_id(value[_ID_ENDS:end], traceparent)
        return b"".join((before, key, between, key, after))
    return encode_headers(headers_of(TaskEvent.FromString(value), traceparent.decode()))


def tenant_of(value: bytes) -> str:
    """The tenant of an event, from its bytes, of which only those up to its time are read."""
    end = _end_of_time(value)
    return _tenant_in(value[_ID_ENDS:end]) if end else TaskEvent.FromString(value).tenant_id


def moment_of(value: bytes) -> datetime:
    """When an event was made, read as `tenant_of` reads."""
    end = _end_of_time(value)
    event = TaskEvent.FromString(value[:end] if end else value)
    return _EPOCH + timedelta(seconds=event.event_time.seconds, microseconds=event.event_time.nanos // 1000)


@lru_cache(maxsize=4096)
def _tenant_in(fields: bytes) -> str:
    return TaskEvent.FromString(fields).tenant_id


def _end_of_time(value: bytes) -> int:
    """Where the time ends in an event that begins with id, number, type, tenant and time; 0 when it does not, or one is long."""
    try:
        if value[:2] != _START or value[_ID_ENDS] != _NUMBER or value[_ID_ENDS + 1] >= _ONE_BYTE:
            return 0
        place = _ID_ENDS + 2
        for tag in (_TYPE, _TENANT, _TIME):
            if value[place] != tag or value[place + 1] >= _ONE_BYTE:
                return 0
            place += 2 + value[place + 1]
    except IndexError:
        return 0
    return place


@lru_cache(maxsize=4096)
def _around_the_id(fields: bytes, traceparent: bytes) -> tuple[bytes, bytes, bytes]:
    """The headers of an event in three parts, between which the task's id stands: in ce_id, then in ce_subject."""
    # No id of a task, so it stands nowhere before its two places.
    stand_in = b"\x01" * 36
    event = TaskEvent.FromString(_START + stand_in + fields)
    before, between, after = encode_headers(headers_of(event, traceparent.decode())).split(stand_in, 2)
    return before, between, after


@lru_cache(maxsize=4096)
def _bytes(text: str) -> bytes:
    return text.encode()


@lru_cache(maxsize=64)
def _time(seconds: int, nanos: int) -> bytes:
    moment = _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)
    return moment.isoformat().replace("+00:00", "Z").encode()
