"""A topic or a type of event that is added to a contract is described, and nothing else need change."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2
from guildmesh.common.v1 import kafka_topic_pb2
from guildmesh.events.v1 import task_event_pb2, tool_usage_pb2

from tools.asyncapi import document
from tools.contracts import Contracts
from tools.reference import events

Field = descriptor_pb2.FieldDescriptorProto


def planted() -> Contracts:
    """The events with one type more, and a message that has a topic of its own."""
    ours = descriptor_pb2.FileDescriptorProto()
    task_event_pb2.DESCRIPTOR.CopyToProto(ours)
    event = next(message for message in ours.message_type if message.name == "TaskEvent")
    (change,) = [place for place, oneof in enumerate(event.oneof_decl) if oneof.name == "change"]
    event.field.add(
        name="paused", number=99, type=Field.TYPE_MESSAGE, label=Field.LABEL_OPTIONAL, oneof_index=change,
        type_name=".guildmesh.events.v1.TaskPaused",
    )  # fmt: skip
    paused = ours.message_type.add(name="TaskPaused")
    paused.field.add(name="cause", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    used = ours.message_type.add(name="BudgetUsage")
    for number, (name, kind) in enumerate({"usage_id": Field.TYPE_STRING, "duration_ms": Field.TYPE_INT64}.items(), 1):
        used.field.add(name=name, number=number, type=kind, label=Field.LABEL_OPTIONAL)
    topic = used.options.Extensions[kafka_topic_pb2.kafka_topic].add(
        name="guildmesh.budget-usage.v1", setting="GUILDMESH_BUDGET_USAGE_TOPIC", key="usage_id", partitions=8,
        cleanup_policy="delete", retention_ms=86_400_000,
    )  # fmt: skip
    cloud = kafka_topic_pb2.KafkaCloudEvent(
        source="/guildmesh/budget", id="{usage_id}", subject="{usage_id}", type="guildmesh.budget.used.v1"
    )
    topic.cloud_event.CopyFrom(cloud)
    used_by_it = descriptor_pb2.FileDescriptorProto()
    tool_usage_pb2.DESCRIPTOR.CopyToProto(used_by_it)
    return Contracts(descriptor_pb2.FileDescriptorSet(file=[used_by_it, ours]))


def test_a_planted_topic_is_described() -> None:
    made: dict[str, Any] = document(planted())
    assert made["channels"].keys() == {"task-events", "task-state", "tool-usage", "budget-usage"}
    channel = made["channels"]["budget-usage"]
    assert channel["address"] == "guildmesh.budget-usage.v1"
    kafka = channel["bindings"]["kafka"]
    assert (kafka["partitions"], kafka["topicConfiguration"]["retention.ms"]) == (8, 86_400_000)
    assert list(channel["messages"]) == ["guildmesh.budget.used.v1"]
    message = made["components"]["messages"]["guildmesh.budget.used.v1"]
    headers = message["headers"]["properties"]
    assert headers["ce_source"]["const"] == "/guildmesh/budget"
    assert headers["ce_id"]["pattern"] == "^[^/]+$"
    assert "ce_sequence" not in headers
    assert made["components"]["schemas"]["BudgetUsage"]["properties"]["duration_ms"]["type"] == "string"
    assert made["operations"]["publish-budget-usage"]["channel"] == {"$ref": "#/channels/budget-usage"}


def test_a_planted_type_of_event_is_described() -> None:
    made: dict[str, Any] = document(planted())
    message = made["components"]["messages"]["guildmesh.task.paused.v1"]
    assert message["headers"]["properties"]["ce_type"]["const"] == "guildmesh.task.paused.v1"
    assert message["payload"]["allOf"][1]["required"] == ["paused"]
    assert message["examples"][0]["payload"]["paused"] == {"cause": "no longer needed"}
    assert "x-last" not in message
    last = {name for name, each in made["components"]["messages"].items() if "x-last" in each}
    assert last == {f"guildmesh.task.{name}.v1" for name in ("completed", "failed", "cancelled")}


def test_the_catalogue_has_both() -> None:
    page = events(planted())
    assert "## guildmesh.budget-usage.v1" in page
    assert "### guildmesh.task.paused.v1" in page
    assert "| 2 | `duration_ms` | int64 |" in page
