"""Values of records as JSON (the setting KAFKA_VALUE_FORMAT), and back.

Proto3 JSON with the names of the contract, in one line, each object in the order of its names: one message has one text,
so that an event that is published again is the same to the last byte.
"""

from __future__ import annotations

import json

from google.protobuf import json_format
from google.protobuf.message import Message
from guildmesh.events.v1.task_event_pb2 import TaskEvent

# An event as protobuf begins with the tag of its task's id.
_JSON = b"{"


def to_json(message: Message) -> bytes:
    """The message as JSON.

    Raises:
        json_format.SerializeToJsonError: JSON has no word for what is in it, such as a number that is none.
    """
    fields = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def event_bytes(value: bytes) -> bytes:
    """A guildmesh.events.v1.TaskEvent as protobuf, from a record's value in either format."""
    if not value.startswith(_JSON):
        return value
    event = TaskEvent()
    json_format.Parse(value.decode(), event)
    return event.SerializeToString(deterministic=True)
