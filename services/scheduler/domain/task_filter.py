"""Which tasks to list, and in which order: filters as AIP-160 writes them, orders as AIP-132 does.

Of AIP-160 a filter may have comparisons joined by AND. Functions, OR, NOT, parentheses and `:` are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from services.common.ids import is_id
from services.scheduler.domain.errors import InvalidFilter, InvalidOrderBy
from services.scheduler.domain.task import State

Value = str | int | datetime | State

EQUALITY = ("=", "!=")
ORDER = ("<", "<=", ">", ">=")
LABELS = "labels."
"""before the key of a label."""
_ANY_LABEL = f"{LABELS}KEY"
_MOST_CONDITIONS = 20
_TOKEN = re.compile(
    r"""\s*(?:
      (!=|<=|>=|[=<>:()])
      |"((?:[^"\\]|\\.)*)"
      |'((?:[^'\\]|\\.)*)'
      |([^\s=!<>:()"']+(?::[^\s=!<>()"']+)*)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison; a task that has no such field (such as a finish_time) does not meet it."""

    field: str
    operator: str
    """one of EQUALITY and ORDER."""
    value: Value


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks to list: those that meet all conditions, in an order."""

    conditions: tuple[Condition, ...] = ()
    by_finish_time: bool = False
    """only tasks that have ended, by when they did; otherwise all, by when they were created."""
    descending: bool = True

    @property
    def states(self) -> frozenset[State]:
        """The states that the conditions leave."""
        states = frozenset(state for state in State if state.ended) if self.by_finish_time else frozenset(State)
        for condition in self.conditions:
            if condition.field == "state":
                equal = condition.operator == "="
                states = frozenset(state for state in states if (state is condition.value) is equal)
            elif condition.field in ("finish_time", "error.reason"):
                states = frozenset(state for state in states if state.ended)
        return states


def state_of(text: str) -> State:
    """A state by its name; raises ValueError."""
    try:
        return State[text.upper().removeprefix("TASK_STATE_")]
    except KeyError:
        raise ValueError(f"the states are {', '.join(state.name for state in State)}") from None


def whole(text: str) -> int:
    """A whole number of at most nine digits; raises ValueError."""
    if not re.fullmatch(r"-?\d{1,9}", text):
        raise ValueError("it must be a whole number")
    return int(text)


def time_of(text: str) -> datetime:
    """A time with a zone; raises ValueError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or len(text) < 20:
        raise ValueError('it must be a time such as "2026-11-22T10:00:00Z"')
    return moment.astimezone(UTC)


def task_id_of(text: str) -> str:
    """A task id; raises ValueError."""
    if not is_id(text):
        raise ValueError("it must be a task id")
    return text.lower()


def filled(text: str) -> str:
    """A text that is not empty; raises ValueError."""
    if not text:
        raise ValueError("it must not be empty")
    return text


Fields = Mapping[str, tuple[tuple[str, ...], Callable[[str], Value]]]
"""what may be filtered by: the comparisons that are possible, and how a value is read; ValueError says why one cannot be."""

_FIELDS: Fields = {
    "state": (EQUALITY, state_of),
    "queue": (EQUALITY, str),
    "kind": (EQUALITY, str),
    "parent_task_id": (("=",), task_id_of),
    "error.reason": (EQUALITY, str),
    "priority": (EQUALITY + ORDER, whole),
    "attempt": (EQUALITY + ORDER, whole),
    "create_time": (ORDER, time_of),
    "start_time": (ORDER, time_of),
    "finish_time": (ORDER, time_of),
    _ANY_LABEL: (("=",), str),
    "created_by": (("=",), filled),
    "concurrency_key": (("=",), filled),
    "schedule_id": (("=",), filled),
    "replay_of": (("=",), task_id_of),
}


def parse_filter(text: str, fields: Fields = _FIELDS) -> tuple[Condition, ...]:
    """The conditions of a filter over some fields, tasks' unless given; none for an empty one.

    Raises:
        InvalidFilter: it says something else than what is described above.
    """
    tokens = _tokens(text)
    conditions: list[Condition] = []
    place = 0
    while place < len(tokens):
        if conditions:
            if tokens[place] != ("AND", False):
                raise InvalidFilter(f"{tokens[place][0]!r} stands where AND should; only comparisons joined by AND are possible")
            place += 1
        conditions.append(_condition(tokens[place : place + 3], fields))
        place += 3
    if len(conditions) > _MOST_CONDITIONS:
        raise InvalidFilter(f"it has {len(conditions)} comparisons; at most {_MOST_CONDITIONS} are possible")
    return tuple(conditions)


def parse_order(text: str) -> tuple[bool, bool]:
    """Whether by finish_time, and whether the latest first; as created, the newest first, for an empty text.

    Raises:
        InvalidOrderBy: it is not create_time or finish_time, with or without "desc".
    """
    words = text.split()
    if not words:
        return False, True
    if words[0] not in ("create_time", "finish_time") or words[1:] not in ([], ["asc"], ["desc"]):
        raise InvalidOrderBy(text)
    return words[0] == "finish_time", words[1:] == ["desc"]


def _tokens(text: str) -> list[tuple[str, bool]]:
    """The words and signs of a filter, each with whether it was quoted."""
    tokens = []
    place = 0
    text = text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise InvalidFilter(f"it cannot be read from {text[place : place + 20].strip()!r} on; is a quote missing?")
        sign, double, single, word = match.groups()
        quoted = double if double is not None else single
        tokens.append((re.sub(r"\\(.)", r"\1", quoted), True) if quoted is not None else (sign or word, False))
        place = match.end()
        if quoted is not None and tokens[:-1] and tokens[-2] == (LABELS, False):
            # A key that is no word, as in labels."team of" = x.
            tokens[-2:] = [(LABELS + tokens[-1][0], False)]
    return tokens


def _condition(tokens: list[tuple[str, bool]], fields: Fields) -> Condition:
    field, quoted = tokens[0] if tokens else ("", False)
    if field in ("NOT", "OR", "(", ")") or field.startswith("-"):
        raise InvalidFilter(f"{field!r} is not possible; only comparisons joined by AND are")
    known = _ANY_LABEL if field.startswith(LABELS) and field != LABELS else field
    if known not in fields or quoted:
        raise InvalidFilter(f"{field!r} is not a field to filter by; the fields are {', '.join(fields)}")
    operators, read = fields[known]
    operator = tokens[1][0] if len(tokens) > 1 else ""
    if operator not in operators or tokens[1][1]:
        raise InvalidFilter(f"{field} must be followed by {' or '.join(operators)}, not by {operator!r}")
    if len(tokens) < 3 or (not tokens[2][1] and not re.match(r"[\w.\-]", tokens[2][0])):
        raise InvalidFilter(f"{field} {operator} must be followed by a value")
    value = tokens[2][0]
    try:
        return Condition(field, operator, read(value))
    except ValueError as error:
        raise InvalidFilter(f"{value!r} is not a value of {field}: {error}") from None
