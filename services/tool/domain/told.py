"""What is told of executions and waits in an outbox."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogEvent:
    """An event for the log of a task."""

    lane: int
    position: int
    execution_id: str
    payload: bytes
    """guildmesh.scheduler.v1.AppendedEvent, serialized."""


@dataclass(frozen=True, slots=True)
class Usage:
    """A record of use."""

    position: int
    tenant_id: str
    usage_id: str
    traceparent: str
    payload: bytes
    """guildmesh.events.v1.ToolUsage, serialized."""


class EventRefused(Exception):
    """The scheduler cannot read an event: it is no use to send it again. The message is the reason."""
