"""The headers of a record: CloudEvents 1.0, Kafka binding, binary mode, with the extensions sequence and distributed tracing.

They are a function of the event and its trace context alone, so a record that is published again is the same to the last byte.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from guildmesh.events.v1.task_event_pb2 import TaskEvent

Headers = list[tuple[str, bytes]]

_SPEC_VERSION = ("ce_specversion", b"1.0")
_SOURCE = ("ce_source", b"/guildmesh/scheduler")
_CONTENT_TYPE = ("content-type", b"application/protobuf")
_DATA_SCHEMA = ("ce_dataschema", b"type.googleapis.com/guildmesh.events.v1.TaskEvent")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def headers_of(event: TaskEvent, traceparent: str) -> Headers:
    """The record headers of an event."""
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
        _CONTENT_TYPE,
        _DATA_SCHEMA,
    ]
    if traceparent:
        trace = traceparent.encode()
        headers += [("traceparent", trace), ("ce_traceparent", trace)]
    return headers


@lru_cache(maxsize=4096)
def _bytes(text: str) -> bytes:
    return text.encode()


@lru_cache(maxsize=64)
def _time(seconds: int, nanos: int) -> bytes:
    moment = _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)
    return moment.isoformat().replace("+00:00", "Z").encode()
