"""Writes gen/asyncapi/asyncapi.json: the topics of Kafka as AsyncAPI 3.0, from the contracts and their option kafka_topic.

A topic that another message is given, and another type of event, are in the document without a change here.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.contracts import Contracts, Event, Json, Message, Topic, pretty, read_contracts, said  # noqa: E402

DESCRIPTION = """What happens to tasks, as records of Kafka.

Read with `isolation.level=read_committed`. Records of one key are in one partition, in order. After a fault a stretch may come
again, the same to the last byte: drop what has a `ce_id` that you have. Values are protobuf; each schema here is that of the JSON
form (proto field names), and `x-protobuf` names the message and its contract. Fields and types of events may be added; what is
there stays."""
MOST_BYTES = 16 << 20
"""of a record, as the topics take it."""
_NOT_ON_EVERY_RECORD = ("traceparent", "ce_traceparent", "ce_datakeyid")


def document(contracts: Contracts) -> Json:
    """The AsyncAPI document."""
    topics = contracts.topics()
    messages = {event.type: _message(contracts, topic, event) for topic in topics for event in topic.events}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "guildmesh events",
            "version": "v1",
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/protobuf",
        "servers": {
            "kafka": {
                "host": "127.0.0.1:9092",
                "protocol": "kafka",
                "description": "KAFKA_BOOTSTRAP_SERVERS; the default of a mesh on one machine.",
            }
        },
        "channels": {_channel_name(topic): _channel(topic) for topic in topics},
        "operations": {_operation_name(topic): _operation(topic) for topic in topics},
        "components": {"messages": messages, "schemas": _schemas(contracts, topics)},
    }


def _channel_name(topic: Topic) -> str:
    return topic.spec.name.split(".")[-2]


def _operation_name(topic: Topic) -> str:
    return f"publish-{_channel_name(topic)}"


def _channel(topic: Topic) -> Json:
    spec = topic.spec
    configuration: Json = {"cleanup.policy": [spec.cleanup_policy], "max.message.bytes": MOST_BYTES}
    if spec.retention_ms:
        configuration["retention.ms"] = spec.retention_ms
    note = " A record without a value (a tombstone) says that the key is gone." if spec.tombstones else ""
    return {
        "address": spec.name,
        "title": spec.name,
        "description": f"{topic.value.comment}{note} The setting {spec.setting} gives the topic another name.",
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": {event.type: {"$ref": f"#/components/messages/{event.type}"} for event in topic.events},
        "bindings": {
            "kafka": {
                "topic": spec.name,
                "partitions": spec.partitions,
                "topicConfiguration": configuration,
                "bindingVersion": "0.5.0",
            }
        },
    }


def _operation(topic: Topic) -> Json:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{_channel_name(topic)}"},
        "summary": f"guildmesh publishes each {topic.value.short_name}.",
    }


def _message(contracts: Contracts, topic: Topic, event: Event) -> Json:
    value = event.value
    payload: Json = {"$ref": f"#/components/schemas/{value.short_name}"}
    about = value.comment
    if event.change is not None:
        about = said(contracts.messages[event.change.type_name.removeprefix(".")].comment)
        only = {"type": "object", "required": [event.change.name], "properties": {"type": {"const": event.type}}}
        payload = {"allOf": [payload, only]}
    message: Json = {
        "name": event.type,
        "title": event.type,
        "summary": about,
        "contentType": "application/protobuf",
        "payload": payload,
        "bindings": {"kafka": {"key": {"type": "string", "description": f"`{topic.spec.key}`"}, "bindingVersion": "0.5.0"}},
        "examples": [{"name": event.type, "payload": contracts.example(event)}],
        "x-protobuf": _protobuf(value),
    }
    if event.last:
        message["x-last"] = True
    headers = contracts.headers(event, topic)
    if headers:
        message["headers"] = {
            "type": "object",
            "required": [name for name in headers if name not in _NOT_ON_EVERY_RECORD],
            "properties": {name: {**schema, "description": about} for name, (about, schema) in headers.items()},
        }
        message["examples"][0]["headers"] = contracts.example_headers(event, topic)
    return message


def _protobuf(message: Message) -> Json:
    return {"message": message.name, "file": f"proto/{message.file}"}


def _schemas(contracts: Contracts, topics: list[Topic]) -> Json:
    schemas: Json = {}
    todo = [topic.value for topic in topics]
    while todo:
        message = todo.pop(0)
        if message.short_name in schemas:
            continue
        properties: Json = {}
        for item, about in message.fields:
            schema = contracts.schema(item)
            note = {"description": about, "x-protobuf-field": item.number}
            properties[item.name] = {"allOf": [schema], **note} if "$ref" in schema else {**schema, **note}
            found = contracts.of(item)
            if found is not None and contracts.entry(item) is None:
                todo.append(found)
        schemas[message.short_name] = {
            "type": "object",
            "description": message.comment,
            "properties": properties,
            "x-protobuf": _protobuf(message),
        }
    return dict(sorted(schemas.items()))


def main() -> None:
    """Writes the document."""
    path = ROOT / "gen" / "asyncapi" / "asyncapi.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(pretty(document(read_contracts())) + "\n")


if __name__ == "__main__":
    main()
