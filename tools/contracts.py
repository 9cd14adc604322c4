"""The contracts with their comments, and what the AsyncAPI document and the event catalogue need of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "gen" / "python")]

from guildmesh.common.v1 import kafka_topic_pb2  # noqa: E402

from services.scheduler.domain.events import LAST_TYPES  # noqa: E402

Json = dict[str, Any]
Field = descriptor_pb2.FieldDescriptorProto
_EXAMPLE_ID = "01990000-0000-7000-8000-000000000000"
_EXAMPLE_TIME = "2026-11-28T09:00:00.123456Z"
_EXAMPLES: Json = {
    "task_id": _EXAMPLE_ID,
    "parent_task_id": "",
    "dependency_ids": [],
    "payload_id": "01990000-0000-7000-8000-00000000000a",
    "tenant_id": "acme",
    "actor": "ada",
    "queue": "default",
    "kind": "agent.task",
    "state": "COMPLETED",
    "description": "Count the words.",
    "labels": {"team": "red"},
    "worker_id": "worker-1",
    "signal": "approval",
    "waiting_signal": "",
    "next_start_time": None,
    "prompt": "Send this letter?",
    "step_id": "fetch",
    "progress": 0.4,
    "text": "It was a dark and stormy night; ",
    "reason": "BROKEN",
    "error_reason": "",
    "message": "The worker's function raised ValueError.",
    "cause": "no longer needed",
    "size_bytes": "1048577",
    "result_size_bytes": "7",
    "error_message_size_bytes": None,
    "error_message_sha256": None,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "result_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "priority": 5,
    "last_event_number": 3,
    "context_payload": None,
    "result_payload": None,
    "timed_out": None,
}
"""examples of fields by their names; None for one that stays away, and any other field has one of its type."""
_WELL_KNOWN: dict[str, tuple[Json, Any]] = {
    ".google.protobuf.Timestamp": ({"type": "string", "format": "date-time"}, _EXAMPLE_TIME),
    ".google.protobuf.Duration": ({"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?s$"}, "1.500s"),
    ".google.protobuf.Struct": ({"type": "object"}, {"answer": 42}),
    ".google.protobuf.Value": ({"description": "Any JSON."}, "done"),
}
_INTEGERS = (Field.TYPE_INT32, Field.TYPE_UINT32, Field.TYPE_SINT32, Field.TYPE_FIXED32, Field.TYPE_SFIXED32)
_LONGS = (Field.TYPE_INT64, Field.TYPE_UINT64, Field.TYPE_SINT64, Field.TYPE_FIXED64, Field.TYPE_SFIXED64)


@dataclass(frozen=True)
class Message:
    """A message of the contracts."""

    name: str
    """full name, such as "guildmesh.events.v1.TaskEvent"."""
    file: str
    """of the contract, below proto/."""
    comment: str
    descriptor: descriptor_pb2.DescriptorProto
    field_comments: tuple[str, ...]

    @property
    def short_name(self) -> str:
        """Without its package."""
        return self.name.rpartition(".")[2]

    @property
    def fields(self) -> Iterator[tuple[Field, str]]:
        """Its fields, by number, with what is said of them."""
        pairs = zip(self.descriptor.field, self.field_comments, strict=True)
        return iter(sorted(pairs, key=lambda pair: pair[0].number))

    @property
    def changes(self) -> list[tuple[Field, str]]:
        """The fields of its oneof `change`, one for each type of event; none for a message without it."""
        for place, oneof in enumerate(self.descriptor.oneof_decl):
            if oneof.name == "change":
                return [(item, said) for item, said in self.fields if item.HasField("oneof_index") and item.oneof_index == place]
        return []


@dataclass(frozen=True)
class Event:
    """One type of record of a topic."""

    type: str
    """ce_type; for records without headers the name of their message."""
    value: Message
    change: Field | None = None
    """the field of the message that says what happened."""

    @property
    def last(self) -> bool:
        """Whether it is the last one of its task."""
        return self.type in LAST_TYPES


@dataclass(frozen=True)
class Topic:
    """A topic of Kafka as its contract describes it."""

    value: Message
    spec: kafka_topic_pb2.KafkaTopic
    events: list[Event] = field(default_factory=list)


class Contracts:
    """Every message by its full name."""

    def __init__(self, files: descriptor_pb2.FileDescriptorSet) -> None:
        self.messages = {message.name: message for file in files.file for message in _messages(file)}
        self.enums = {
            f".{file.package}.{enum.name}": [value.name for value in enum.value] for file in files.file for enum in file.enum_type
        }

    def topics(self) -> list[Topic]:
        """Each topic that a message has, by name."""
        found = []
        for message in self.messages.values():
            for spec in message.descriptor.options.Extensions[kafka_topic_pb2.kafka_topic]:
                if message.changes:
                    prefix = message.name.split(".")[0]
                    events = [Event(f"{prefix}.task.{item.name}.v1", message, item) for item, _ in message.changes]
                else:
                    events = [Event(spec.cloud_event.type or message.name, message)]
                found.append(Topic(message, spec, events))
        return sorted(found, key=lambda topic: topic.spec.name)

    def of(self, item: Field) -> Message | None:
        """The message that a field holds; None for well-known ones and other types."""
        if item.type != Field.TYPE_MESSAGE or item.type_name in _WELL_KNOWN:
            return None
        return self.messages.get(item.type_name.removeprefix("."))

    def entry(self, item: Field) -> descriptor_pb2.DescriptorProto | None:
        """The nested message of a map."""
        owner, _, name = item.type_name.removeprefix(".").rpartition(".")
        for nested in self.messages[owner].descriptor.nested_type if owner in self.messages else ():
            if nested.name == name and nested.options.map_entry:
                return nested
        return None

    def schema(self, item: Field) -> Json:
        """JSON Schema of a field in the JSON form of protobuf (proto field names)."""
        if (entry := self.entry(item)) is not None:
            return {"type": "object", "additionalProperties": self.schema(entry.field[1])}
        if item.label == Field.LABEL_REPEATED:
            return {"type": "array", "items": self._single(item)}
        return self._single(item)

    def _single(self, item: Field) -> Json:
        if item.type_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[item.type_name][0])
        if (message := self.of(item)) is not None:
            return {"$ref": f"#/components/schemas/{message.short_name}"}
        if item.type == Field.TYPE_ENUM:
            return {"type": "string", "enum": self.enums[item.type_name]}
        if item.type in _INTEGERS:
            return {"type": "integer", "format": "int32"}
        if item.type in _LONGS:
            # 64 bits do not fit into a number of JavaScript, so protobuf writes them as text.
            return {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}
        if item.type in (Field.TYPE_DOUBLE, Field.TYPE_FLOAT):
            return {"type": "number"}
        if item.type == Field.TYPE_BOOL:
            return {"type": "boolean"}
        return {"type": "string", "contentEncoding": "base64"} if item.type == Field.TYPE_BYTES else {"type": "string"}

    def type_name(self, item: Field) -> str:
        """How a person reads the type of a field."""
        if (entry := self.entry(item)) is not None:
            return f"map<{self.type_name(entry.field[0])}, {self.type_name(entry.field[1])}>"
        named = item.type_name.rpartition(".")[2] or Field.Type.Name(item.type).removeprefix("TYPE_").lower()
        return f"repeated {named}" if item.label == Field.LABEL_REPEATED else named

    def example(self, event: Event) -> Json:
        """A value of an event in the JSON form of protobuf."""
        others = {item.name for item, _ in event.value.changes if item != event.change}
        example = self._example(event.value, others)
        if event.change is not None:
            number = 1 if event.change.name == "created" else 2
            example |= {"number": number, "type": event.type, "attempt": number - 1}
        return {name: value for name, value in example.items() if value not in ("", 0, [])}

    def _example(self, message: Message, without: set[str] | frozenset[str] = frozenset()) -> Json:
        values = {item.name: self._value(item) for item, _ in message.fields if item.name not in without}
        return {name: value for name, value in values.items() if value is not None and value != "" and value != []}

    def _value(self, item: Field) -> Any:
        if item.name in _EXAMPLES:
            return _EXAMPLES[item.name]
        if item.type_name in _WELL_KNOWN:
            value: Any = _WELL_KNOWN[item.type_name][1]
        elif (message := self.of(item)) is not None:
            value = self._example(message)
        elif item.type == Field.TYPE_ENUM:
            value = self.enums[item.type_name][-1]
        elif item.type in _INTEGERS:
            value = 1
        elif item.type in _LONGS:
            value = "1"
        elif item.type in (Field.TYPE_DOUBLE, Field.TYPE_FLOAT):
            value = 0.5
        elif item.type == Field.TYPE_BOOL:
            value = True
        else:
            value = "" if item.type == Field.TYPE_BYTES else item.name
        return [value] if item.label == Field.LABEL_REPEATED else value

    def headers(self, event: Event, topic: Topic) -> dict[str, tuple[str, Json]]:
        """The headers of a record by name: what each is, and its JSON Schema."""
        if not topic.spec.HasField("cloud_event"):
            return {}
        cloud = topic.spec.cloud_event
        text = {"type": "string", "minLength": 1}
        trace = {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"}
        headers: dict[str, tuple[str, Json]] = {
            "ce_specversion": ("version of CloudEvents", {"type": "string", "const": "1.0"}),
            "ce_id": ("the same for a repeat, which is the same to the last byte", self._template(cloud.id, event)),
            "ce_type": ("what happened", {"type": "string", "const": event.type}),
            "ce_source": ("who tells", {"type": "string", "const": cloud.source}),
            "ce_subject": ("what it happened to", self._template(cloud.subject, event)),
            "ce_time": ("when, RFC 3339, UTC", {"type": "string", "format": "date-time", "pattern": "Z$"}),
            "ce_sequence": (f"`{cloud.sequence}` as ten digits", {"type": "string", "pattern": "^[0-9]{10}$"}),
            "ce_tenantid": ("the tenant", text),
            "content-type": (
                "of the value; application/json where `KAFKA_VALUE_FORMAT` says so",
                {"type": "string", "enum": ["application/protobuf", "application/json"]},
            ),
            "ce_dataschema": (
                "the message in the value",
                {"type": "string", "const": f"type.googleapis.com/{event.value.name}"},
            ),
            "traceparent": ("W3C trace context of the call that created the task; not on every record", trace),
            "ce_traceparent": ("the same, as CloudEvents' extension", trace),
            "ce_datakeyid": ("the key that encrypts the texts of the value (EventKeyService); only in encrypted queues", text),
        }
        if not cloud.sequence:
            del headers["ce_sequence"]
        return headers

    def _template(self, template: str, event: Event) -> Json:
        kinds = {item.name: item.type for item, _ in event.value.fields}
        parts = re.split(r"\{(\w+)\}", template)
        patterns = [
            re.escape(part) if place % 2 == 0 else "[1-9][0-9]*" if kinds[part] in (*_INTEGERS, *_LONGS) else "[^/]+"
            for place, part in enumerate(parts)
        ]
        return {"type": "string", "pattern": f"^{''.join(patterns)}$"}

    def example_headers(self, event: Event, topic: Topic) -> Json:
        """The headers that the example of an event has."""
        value = self.example(event)
        cloud = topic.spec.cloud_event
        given = {
            "ce_id": re.sub(r"\{(\w+)\}", lambda match: str(value.get(match[1], "")), cloud.id),
            "ce_subject": re.sub(r"\{(\w+)\}", lambda match: str(value.get(match[1], "")), cloud.subject),
            "ce_time": _EXAMPLE_TIME,
            "ce_sequence": f"{value.get(cloud.sequence, 0):010d}",
            "ce_tenantid": value.get("tenant_id", "acme"),
            "content-type": "application/protobuf",
        }
        found = {name: schema.get("const", given.get(name)) for name, (_, schema) in self.headers(event, topic).items()}
        return {name: text for name, text in found.items() if text is not None}


def read_contracts() -> Contracts:
    """The contracts as they are in proto/ now."""
    command = [str(Path(sys.executable).parent / "buf"), "build", "--as-file-descriptor-set", "-o", "-"]
    built = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    return Contracts(descriptor_pb2.FileDescriptorSet.FromString(built))


def said(comment: str) -> str:
    """What a comment says, without the name that it begins with, as a sentence."""
    text = re.sub(r"^\w+ (says that|is|has) ", "", comment)
    text = re.sub(r"^\w+: ", "", text) if text == comment else text
    return text[:1].upper() + text[1:]


def pretty(value: Json) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _messages(file: descriptor_pb2.FileDescriptorProto) -> Iterator[Message]:
    comments = {tuple(place.path): _tidy(place.leading_comments) for place in file.source_code_info.location}
    for number, message in enumerate(file.message_type):
        fields = tuple(comments.get((4, number, 2, place), "") for place in range(len(message.field)))
        yield Message(f"{file.package}.{message.name}", file.name, comments.get((4, number), ""), message, fields)


def _tidy(comment: str) -> str:
    return " ".join(comment.split())
