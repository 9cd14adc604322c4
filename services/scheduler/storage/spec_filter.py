"""Filters by what only the serialized task has: labels, and who created it.

Such a field is looked for in the bytes by its own encoding, which protobuf writes in one way, so that a list reads no more of
each task than before, and no task pays for an index. The same bytes may also be part of a text: what is found is looked
at again, as a message.
"""

from __future__ import annotations

from collections.abc import Sequence

from guildmesh.scheduler.v1.task_pb2 import Task as TaskMessage

from services.scheduler.domain.schedule import SCHEDULE_ID_LABEL
from services.scheduler.domain.task_filter import LABELS, Condition

_FIELDS = ("created_by", "concurrency_key", "replay_of")


def encoded(condition: Condition) -> bytes | None:
    """What the serialized task has when it meets the condition; None for a condition on a column."""
    label, value = _label(condition), str(condition.value)
    if label is not None:
        return TaskMessage(labels={label: value}).SerializeToString()
    if condition.field in _FIELDS:
        message = TaskMessage()
        setattr(message, condition.field, value)
        return message.SerializeToString()
    return None


def met(spec: bytes, conditions: Sequence[Condition]) -> bool:
    """Whether the task meets those of the conditions that are looked for in its bytes."""
    message = TaskMessage.FromString(spec)
    for condition in conditions:
        label = _label(condition)
        if label is not None:
            if message.labels.get(label) != condition.value:
                return False
        elif condition.field in _FIELDS and getattr(message, condition.field) != condition.value:
            return False
    return True


def _label(condition: Condition) -> str | None:
    if condition.field == "schedule_id":
        return SCHEDULE_ID_LABEL
    return condition.field.removeprefix(LABELS) if condition.field.startswith(LABELS) else None
