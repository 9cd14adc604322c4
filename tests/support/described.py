"""Whether a record of Kafka is as the AsyncAPI document says, down to the last header and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.unknown_fields import UnknownFieldSet

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).resolve().parents[2] / "gen" / "asyncapi" / "asyncapi.json").read_text())
CHANNELS = {channel["address"]: channel for channel in DOCUMENT["channels"].values()}


def check(value: object, schema: dict[str, Any]) -> None:
    """Raises ValidationError unless a value is as a schema of the document says, down to the last field."""
    registered = {**schema, "components": DOCUMENT["components"]}
    jsonschema.Draft7Validator(registered, format_checker=jsonschema.FormatChecker()).validate(value)


def check_record(record: Any, channel: dict[str, Any]) -> str:
    """Checks a record that is no tombstone; gives its type."""
    headers = {name: text.decode() for name, text in record.headers}
    assert len(headers) == len(record.headers), "a header is there twice"
    names = list(channel["messages"])
    message = DOCUMENT["components"]["messages"][headers["ce_type"] if headers else names[0]]
    assert message["name"] in names
    described = message.get("headers", {"properties": {}})
    check(headers, described)
    assert headers.keys() <= described["properties"].keys(), "a header is not described"
    descriptor = descriptor_pool.Default().FindMessageTypeByName(message["x-protobuf"]["message"])
    content = message_factory.GetMessageClass(descriptor).FromString(record.value)
    assert not list(UnknownFieldSet(content))
    fields = json_format.MessageToDict(content, preserving_proto_field_name=True)
    check(fields, message["payload"])
    schema = DOCUMENT["components"]["schemas"][descriptor.name]
    assert fields.keys() <= schema["properties"].keys()
    key = message["bindings"]["kafka"]["key"]["description"].strip("`")
    assert record.key.decode() == fields[key]
    return str(message["name"])
