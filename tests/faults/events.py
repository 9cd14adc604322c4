"""What the checker knows of an event, whatever channel showed it."""

from __future__ import annotations

from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.events.v1.tool_usage_pb2 import ToolOutcome

from tests.faults.evidence import Event
from tests.faults.history import digest


def _due(event: TaskEvent) -> float:
    change = event.WhichOneof("change") or ""
    if change == "waiting" or event.created.dependency_ids:
        return 1e-9
    part = getattr(event, change) if change in ("created", "retried", "ready") else None
    return part.next_start_time.ToNanoseconds() / 1e9 if part is not None and part.HasField("next_start_time") else 0.0


def _value(event: TaskEvent) -> str:
    if event.HasField("tool_returned"):
        return ToolOutcome.Name(event.tool_returned.outcome)
    return digest(event.signalled.value.SerializeToString(deterministic=True)) if event.HasField("signalled") else ""


def _detail(event: TaskEvent) -> str:
    change = event.WhichOneof("change") or ""
    if change in ("tool_called", "tool_returned"):
        return f"{getattr(event, change).execution_id}/{getattr(event, change).run}"
    if change in ("child_created", "child_ended"):
        return str(getattr(event, change).child_task_id)
    return event.signalled.signal or event.step_completed.step_id


def event_of(event: TaskEvent) -> Event:
    """What the checker knows of an event; the same on every channel."""
    return Event(
        task_id=event.task_id,
        number=event.number,
        type=event.WhichOneof("change") or "",
        attempt=event.attempt,
        digest=digest(event.SerializeToString(deterministic=True)),
        value=_value(event),
        detail=_detail(event),
        time=event.event_time.ToNanoseconds() / 1e9,
        due=_due(event),
        needs=tuple(event.created.dependency_ids),
    )
