"""Events as the events topic has them, and which of them a watcher wants."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

from services.scheduler.domain.events import Change
from services.scheduler.domain.task import State
from services.scheduler.domain.task_filter import (
    EQUALITY,
    LABELS,
    ORDER,
    Condition,
    Fields,
    Value,
    filled,
    parse_filter,
    state_of,
    task_id_of,
    whole,
)

TYPES = frozenset(change.type.split(".")[-2] for change in get_args(Change))
"""types of events without what is around them, such as "step_completed"."""


@dataclass(frozen=True, slots=True)
class Published:
    """One event on the topic."""

    partition: int
    offset: int
    value: bytes
    """guildmesh.events.v1.TaskEvent, serialized."""
    task_id: str
    number: int
    type: str
    """such as "completed"."""
    state: State | None
    """the state that the event led to; None when it led to no other."""
    queue: str
    kind: str
    attempt: int
    actor: str
    parent_task_id: str
    left_out: int = 0
    """bytes of its texts that are not in it, 1 at least; 0 when it has all of them."""
    time_us: int = 0
    """event_time, in microseconds since 1970, as PostgreSQL keeps it."""
    traceparent: str = ""
    """W3C trace context of the call that created the task, where its record has one."""


@dataclass(frozen=True)
class EventFilter:
    """Which events a watcher wants: those that meet all conditions."""

    conditions: tuple[Condition, ...] = ()

    @cached_property
    def of_tasks(self) -> tuple[Condition, ...]:
        """The conditions on what only the task has, not its events."""
        return tuple(each for each in self.conditions if each.field not in _OF_EVENTS)

    @cached_property
    def _of_events(self) -> tuple[tuple[str, Callable[[Any, Any], bool], Value], ...]:
        return tuple((each.field, _COMPARE[each.operator], each.value) for each in self.conditions if each.field in _OF_EVENTS)

    def meets(self, event: Published) -> bool:
        """Whether the event itself meets its part of the conditions."""
        for field, compare, value in self._of_events:
            found = getattr(event, field)
            if found is None or not compare(found, value):
                return False
        return True


def parse_event_filter(text: str) -> EventFilter:
    """The filter of a text as AIP-160 writes it; raises InvalidFilter."""
    return EventFilter(parse_filter(text, _FIELDS))


def _type(text: str) -> str:
    name = text.removeprefix("guildmesh.task.").removesuffix(".v1").lower()
    if name not in TYPES:
        raise ValueError(f"the types are {', '.join(sorted(TYPES))}")
    return name


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_OF_EVENTS_FIELDS: Fields = {
    "type": (EQUALITY, _type),
    "state": (EQUALITY, state_of),
    "queue": (EQUALITY, str),
    "kind": (EQUALITY, str),
    "actor": (EQUALITY, str),
    "task_id": (("=",), task_id_of),
    "parent_task_id": (("=",), task_id_of),
    "attempt": (EQUALITY + ORDER, whole),
}
_OF_EVENTS = frozenset(_OF_EVENTS_FIELDS)
_FIELDS: Fields = {
    **_OF_EVENTS_FIELDS,
    f"{LABELS}KEY": (("=",), str),
    "created_by": (("=",), filled),
    "concurrency_key": (("=",), filled),
    "schedule_id": (("=",), filled),
    "replay_of": (("=",), task_id_of),
}
