"""What Kafka gets of an event, made from the bytes that the log has: a function of these alone, so that it can be made again.

The fields are taken out by hand and put together in the order of their numbers: what is left in stays as it is, to the last byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from services.common.wire import message, number, text, varint
from services.scheduler.domain.event_content import LARGE, EventContent, EventKey

_CREATED, _SIGNALLED, _TOOL_RETURNED = 20, 29, 35
# Of each change that has texts, by its field in TaskEvent: the field of each text, and that of its size, before its hash's.
_TEXTS = {
    **{change: {1: 11} for change in (_CREATED, 24, 26)},
    **{change: {2: 11} for change in (22, 23, 25, 28, 31)},
    _SIGNALLED: {2: 11, 4: 14},
    _TOOL_RETURNED: {11: 14, 12: 16},
}
_VALUES = {
    22: (2, 13, "/v1/tasks/{}/events"),
    24: (1, 13, "/v1/tasks/{}"),
    _SIGNALLED: (2, 13, "/v1/tasks/{}/events"),
    _TOOL_RETURNED: (11, 18, "/v1/tasks/{}/events"),
}
"""of those that have a google.protobuf.Value, which may be large: its field, that of its reference, and where it is read."""
_LABELS = 3
_PAYLOADS = {20: 10, 24: 6}
"""the fields that name a payload."""
_FIRST_CHANGE, _LAST_BEFORE_CONTENT = 20, 10
_TASK_ID, _NUMBER, _REFERENCE_SHA256 = 1, 2, 3
# Fields 11 to 13 of TaskEvent: bytes, text, number; and 13 of TaskCreated.
_SEALED, _KEY_ID, _CONTENT, _OMITTED_LABELS = b"\x5a", b"\x62", b"\x68", b"\x68"


class Published(NamedTuple):
    """What goes out."""

    value: bytes
    """guildmesh.events.v1.TaskEvent, serialized."""
    key_id: str = ""
    """of the key that it is encrypted with."""


def published_event(value: bytes, content: EventContent, key: EventKey | None = None) -> Published:
    """The event as it goes to Kafka; with ENCRYPTED and no key, what was encrypted is left out."""
    plain = value if len(value) <= LARGE else _without_large(value)
    if content is EventContent.PLAIN:
        return Published(plain)
    event = _Event(value)
    change = event.reduced(hashes=content is EventContent.OMIT)
    if change is None:
        return Published(value)
    if content is EventContent.OMIT or key is None:
        return Published(event.with_change(change, content))
    sealed = key.cipher.seal(event.task_id, event.number, plain)
    return Published(event.with_change(change, content, sealed, key.key_id), key.key_id)


def reference_without_hash(reference: bytes) -> bytes:
    """A PayloadReference that does not tell what is in the payload."""
    return b"".join(field.raw for field in _fields(reference) if field.number != _REFERENCE_SHA256)


def _without_large(value: bytes) -> bytes:
    event = _Event(value)
    if event.kind not in _VALUES:
        return value
    change = event.reduced(hashes=True, above=LARGE)
    return value if change is None else event.with_change(change, EventContent.OMIT)


class _Event:
    """A TaskEvent, taken apart."""

    def __init__(self, value: bytes) -> None:
        self._head: list[bytes] = []
        self._source: list[bytes] = []
        """what stands behind the fields that say what is left out."""
        self.kind, self._change = 0, b""
        self.task_id, self.number = "", 0
        for field in _fields(value):
            if field.number >= _FIRST_CHANGE:
                self.kind, self._change = field.number, field.body
                continue
            (self._head if field.number <= _LAST_BEFORE_CONTENT else self._source).append(field.raw)
            if field.number == _TASK_ID:
                self.task_id = field.body.decode()
            elif field.number == _NUMBER:
                self.number = field.varint

    def reduced(self, *, hashes: bool, above: int = 0) -> bytes | None:
        """The change with sizes (and hashes) in place of its texts; None when it has none.

        With `above` only of a value of more bytes than that, beside which it is said where to read it.
        """
        texts = _TEXTS.get(self.kind)
        if texts is None:
            return None
        value, reference, where = _VALUES[self.kind] if above else (0, 0, "")
        kept, labels, changed = [], 0, False
        left_out: dict[int, bytes] = {}
        for field in _fields(self._change):
            place, body = texts.get(field.number), field.body
            if place is not None and body and (not above or (field.number == value and len(body) > above)):
                left_out[place] = number(_tag(place, 0), len(body))
                if hashes:
                    left_out[place + 1] = text(_tag(place + 1, 2), hashlib.sha256(body).hexdigest())
                if above:
                    left_out[reference] = text(_tag(reference, 2), where.format(self.task_id))
            elif self.kind == _CREATED and field.number == _LABELS:
                labels += 1
            elif not hashes and field.number == _PAYLOADS.get(self.kind):
                kept.append(message(field.tag, reference_without_hash(field.body)))
                changed = True
            else:
                kept.append(field.raw)
        if not (left_out or labels or changed):
            return None
        return b"".join((*kept, *(left_out[place] for place in sorted(left_out)), number(_OMITTED_LABELS, labels)))

    def with_change(self, change: bytes, content: EventContent, sealed: bytes = b"", key_id: str = "") -> bytes:
        """The whole, with another change."""
        tail = (message(_SEALED, sealed) if sealed else b"", text(_KEY_ID, key_id), number(_CONTENT, content))
        return b"".join((*self._head, *tail, *self._source, message(_tag(self.kind, 2), change)))


def _tag(field: int, wire_type: int) -> bytes:
    return varint(field << 3 | wire_type)


class _Field(NamedTuple):
    number: int
    tag: bytes
    raw: bytes
    """the field with its tag."""
    body: bytes
    """what is in a field with a length."""
    varint: int


def _fields(data: bytes) -> Iterator[_Field]:
    """The fields of a message that our own codec or protobuf's has made: none has a group."""
    place = 0
    while place < len(data):
        start = place
        key, place = _read_varint(data, place)
        tag, value = data[start:place], 0
        if (wire := key & 7) == 0:
            value, place = _read_varint(data, place)
            body = place
        elif wire == 2:
            size, body = _read_varint(data, place)
            place = body + size
        else:
            body = place = place + (8 if wire == 1 else 4)
        yield _Field(key >> 3, tag, data[start:place], data[body:place], value)


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
