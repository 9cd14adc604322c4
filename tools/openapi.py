"""Makes gen/openapi/openapi.json of what gnostic's plugin generated: adds what only our own options and the gateway know.

Which paths need a token (policy), what a field may hold (protovalidate), that an error is a google.rpc.Status with ErrorInfo, and
what streams look like over HTTP.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "gen" / "python"))

from buf.validate import validate_pb2  # noqa: E402
from guildmesh.common.v1 import policy_pb2  # noqa: E402

Json = dict[str, Any]
DESCRIPTION = """Teams of AI agents work together, and nothing they do is lost. The same methods are served as gRPC on this port.

Get a token from `POST /auth/token`, then send it as `Authorization: Bearer TOKEN`. Every error is a `Status`: what happened,
what to do, and in `details` an `ErrorInfo` whose `reason` a program can rely on."""

ERROR_INFO = {
    "type": "object",
    "description": "Says why, for programs. Other details may stand beside it: BadRequest names fields, RetryInfo says when.",
    "properties": {
        "@type": {"type": "string", "example": "type.googleapis.com/google.rpc.ErrorInfo"},
        "reason": {"type": "string", "example": "TASK_NOT_FOUND", "description": "What happened; stable within a domain."},
        "domain": {"type": "string", "example": "scheduler.guildmesh.dev"},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["@type"],
    "additionalProperties": True,
}
STATUS = {
    "type": "object",
    "description": "google.rpc.Status: every error, of the gateway too. The HTTP status means what HTTP says it means.",
    "properties": {
        "code": {"type": "integer", "format": "int32", "description": "google.rpc.Code", "example": 5},
        "message": {"type": "string", "example": "No task 'x'; list your tasks with GET /v1/tasks."},
        "details": {"type": "array", "items": {"$ref": "#/components/schemas/ErrorInfo"}},
    },
    "required": ["code", "message", "details"],
}
SERVER_SENT_EVENTS = {
    "schema": {"type": "string"},
    "example": 'id: 1\nevent: guildmesh.task.created.v1\ndata: {"number":1}\n\nevent: end\ndata: {}\n\n',
}
FILE = {"schema": {"type": "string", "format": "binary"}}


def finished(document: Json, files: descriptor_pb2.FileDescriptorSet) -> Json:
    """The document with everything added."""
    document["info"] = {
        "title": "guildmesh",
        "version": "v1",
        "description": DESCRIPTION,
        "license": {"name": "Apache-2.0"},
    }
    document["servers"] = [{"url": "/"}]
    components = document["components"]
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "watchTicket": {"type": "apiKey", "in": "query", "name": "ticket", "description": "From `POST /v1/watch-tickets`."},
        "watchCookie": {"type": "apiKey", "in": "cookie", "name": "guildmesh_watch", "description": "Set by the same call."},
    }
    document["security"] = [{"bearer": []}]
    _limit_fields(components["schemas"], files)
    components["schemas"] |= {"Status": STATUS, "ErrorInfo": ERROR_INFO}
    components["schemas"].pop("GoogleProtobufAny", None)
    for method, verb, path in _bindings(files):
        _finish_operation(document["paths"][path][verb], method, path)
    document["paths"]["/auth/token"]["post"]["requestBody"]["content"]["application/x-www-form-urlencoded"] = {
        "schema": {"$ref": "#/components/schemas/IssueTokenRequest"}
    }
    _tidy(document)
    return document


def _bindings(files: descriptor_pb2.FileDescriptorSet) -> Iterator[tuple[descriptor_pb2.MethodDescriptorProto, str, str]]:
    for file in files.file:
        for service in file.service:
            for method in service.method:
                http = method.options.Extensions[annotations_pb2.http]
                for rule in (http, *http.additional_bindings):
                    verb = rule.WhichOneof("pattern")
                    if verb:
                        yield method, verb, getattr(rule, verb)


def _finish_operation(operation: Json, method: descriptor_pb2.MethodDescriptorProto, path: str) -> None:
    policy = method.options.Extensions[policy_pb2.policy]
    operation["summary"] = method.name
    if policy.access == policy_pb2.ACCESS_ANONYMOUS:
        operation["security"] = []
    if policy.watch_ticket:
        operation["security"] = [{"bearer": []}, {"watchTicket": []}, {"watchCookie": []}]
    if "{file}" in path:
        operation["operationId"] += "File"
    elif method.name == "GetDocs":
        operation["parameters"] = []
    answer = operation["responses"]["200"]
    if method.output_type == ".google.api.HttpBody":
        content = {
            "StreamTaskEvents": {"text/event-stream": SERVER_SENT_EVENTS},
            "GetOpenApi": {"application/json": {"schema": {"type": "object"}}},
            "GetAsyncApi": {"application/json": {"schema": {"type": "object"}}},
        }
        answer["content"] = content.get(method.name, {"text/html": {"schema": {"type": "string"}}, "*/*": FILE})
    elif method.server_streaming:
        answer["description"] = "A stream: one JSON object a line."
    if method.name == "StreamTaskEvents":
        operation["parameters"].append(
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "Resumes after this event, as browsers do by themselves.",
                "schema": {"type": "string"},
            }
        )
    operation["responses"]["default"]["description"] = "An error."


def _limit_fields(schemas: Json, files: descriptor_pb2.FileDescriptorSet) -> None:
    """Copies the rules that JSON Schema can say from protovalidate to the schemas."""
    for file in files.file:
        for message in file.message_type:
            properties = schemas.get(message.name, {}).get("properties", {})
            for field in message.field:
                schema = properties.get(field.name)
                if schema is None or not field.options.HasExtension(validate_pb2.field):
                    continue
                _limit(schema, field.options.Extensions[validate_pb2.field])


KEYWORDS = {
    "string": {"min_len": "minLength", "max_len": "maxLength", "pattern": "pattern"},
    "int32": {"gte": "minimum", "lte": "maximum"},
    "int64": {"gte": "minimum", "lte": "maximum"},
    "double": {"gte": "minimum", "lte": "maximum"},
    "repeated": {"min_items": "minItems", "max_items": "maxItems"},
}
"""protovalidate's rules by kind of field, and what they are called in JSON Schema."""


def _limit(schema: Json, rules: validate_pb2.FieldRules) -> None:
    kind = rules.WhichOneof("type") or ""
    # The set is chosen by name, so its type is not known here.
    limits: Any = getattr(rules, kind, None)
    for name, keyword in KEYWORDS.get(kind, {}).items():
        if limits.HasField(name):
            schema[keyword] = getattr(limits, name)


def _tidy(node: Any) -> None:
    """Removes what is no standard, and the line breaks of proto comments."""
    if isinstance(node, dict):
        if node.get("format") == "enum":
            del node["format"]
        if isinstance(node.get("description"), str):
            node["description"] = node["description"].replace("\n ", "\n")
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _tidy(child)


def main() -> None:
    """Replaces gen/openapi/openapi.yaml by openapi.json."""
    source = ROOT / "gen" / "openapi" / "openapi.yaml"
    files = descriptor_pb2.FileDescriptorSet.FromString((ROOT / "gen" / "descriptors" / "guildmesh.binpb").read_bytes())
    document = finished(yaml.safe_load(source.read_text()), files)
    source.with_suffix(".json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    source.unlink()


if __name__ == "__main__":
    main()
