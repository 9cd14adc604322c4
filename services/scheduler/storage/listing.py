"""The statement that lists tasks: one snapshot of both tables, each part of it along an index.

What no index is in the order of is looked for among the next LOOKED_AT entries of one that is: `edge` is the last of these, the
page ends there, and the next one begins behind it. So a page costs about the same whatever is asked for, however much there is.
"""
# ruff: noqa: S608 - the names in the statements are ours, the values are arguments

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from services.scheduler.domain.ports import Place
from services.scheduler.domain.task import State
from services.scheduler.domain.task_filter import Condition, TaskFilter
from services.scheduler.storage.spec_filter import encoded

LOOKED_AT = 5000
"""entries of an index that a page looks at."""
# An id is as old as its task but for this: clocks that differ, and what waits for its commit.
_SLACK = timedelta(minutes=1)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_SMALLEST, _LARGEST = str(uuid.UUID(int=0)), str(uuid.UUID(int=(1 << 128) - 1))
_TYPES = {
    "state": "smallint", "priority": "smallint", "attempt": "int", "parent_task_id": "uuid",
    "create_time": "timestamptz", "start_time": "timestamptz", "finish_time": "timestamptz",
}  # fmt: skip
_COLUMNS = {"error.reason": "error_reason"}


@dataclass(slots=True)
class _Part:
    """What is listed of one table."""

    table: str
    columns: str
    along: str
    """conditions that an index answers."""
    besides: str
    """the other ones; empty for none."""


@dataclass(slots=True)
class Statement:
    """A statement, and what it is given."""

    text: str = ""
    arguments: list[object] = field(default_factory=list)

    def given(self, value: object, type_: str) -> str:
        """The place of an argument."""
        self.arguments.append(value)
        return f"${len(self.arguments)}::{type_}"


def list_statement(
    tenant_id: str, wanted: TaskFilter, after: Place | None, limit: int, active: str, ended: str
) -> Statement | None:
    """Lists up to `limit` + 1 tasks with the columns of each table, and in each row the edge; None when there can be none."""
    statement = Statement()
    parts = _parts(statement, tenant_id, wanted, after, active, ended)
    if not parts:
        return None
    key, way = ("finish_time", "DESC") if wanted.by_finish_time else ("task_id", "DESC")
    if not wanted.descending:
        way = "ASC"
    nearest, on = ("max", ">=") if wanted.descending else ("min", "<=")
    limited = [part for part in parts if part.besides]
    order = f"ORDER BY {key} {way}" + (f", task_id {way}" if wanted.by_finish_time else "")
    edges = " UNION ALL ".join(
        f"(SELECT {key} FROM {part.table} WHERE {part.along} ORDER BY {key} {way} OFFSET {LOOKED_AT - 1} LIMIT 1)"
        for part in limited
    )
    if wanted.by_finish_time:
        type_, last, farthest = "timestamptz", f"{nearest}({key})", "-infinity" if wanted.descending else "infinity"
    else:
        # A uuid has no maximum, but its text is in the same order.
        type_, last, farthest = "uuid", f"{nearest}({key}::text)::uuid", _SMALLEST if wanted.descending else _LARGEST
    edge = f"SELECT {last} AS edge FROM ({edges}) e" if limited else f"SELECT NULL::{type_} AS edge"
    # Row security lets an index be used for what cannot tell of rows: the plain value of a subquery, not an expression over it.
    within = f" AND {key} {on} (SELECT bound FROM edge)" if limited else ""
    selects = " UNION ALL ".join(
        f"(SELECT {part.columns} FROM {part.table} WHERE {part.along}{within}{part.besides} {order} LIMIT {limit + 1})"
        for part in parts
    )
    statement.text = f"""
WITH edge AS MATERIALIZED (SELECT edge, COALESCE(edge, '{farthest}') AS bound FROM ({edge}) e)
SELECT edge.edge, found.* FROM edge LEFT JOIN LATERAL (SELECT * FROM ({selects}) parts {order} LIMIT {limit + 1}) found ON true
"""
    return statement


def _parts(statement: Statement, tenant_id: str, wanted: TaskFilter, after: Place | None, active: str, ended: str) -> list[_Part]:
    states = wanted.states
    others = [condition for condition in wanted.conditions if condition.field != "state"]
    along = [f"tenant_id = {statement.given(tenant_id, 'text')}", *_along(statement, wanted, after)]
    besides: list[str] = []
    for condition in others:
        if (part := encoded(condition)) is not None:
            besides.append(f"position({statement.given(part, 'bytea')} IN spec) > 0")
            continue
        column = _COLUMNS.get(condition.field, condition.field)
        text = f"{column} {_SQL.get(condition.operator, condition.operator)} {_given(statement, condition)}"
        indexed = condition.field == "parent_task_id" and not wanted.by_finish_time
        exact = condition.field == "finish_time" and wanted.by_finish_time
        (along if indexed or exact else besides).append(text)
    rest = "".join(f" AND {text}" for text in besides)
    line = " AND ".join(along)
    parts = []
    unended = sorted(state for state in states if not state.ended)
    if unended:
        every = len(unended) == len(State) - 3
        some = "" if every else f" AND state IN ({', '.join(str(int(state)) for state in unended)})"
        parts.append(_Part("tasks", active, line, some + rest))
    over = frozenset(state for state in states if state.ended)
    if over and State.COMPLETED not in over and not wanted.by_finish_time:
        # Each along the index of those that did not complete, which is for whoever says so.
        for state in sorted(over):
            parts.append(_Part("finished_tasks", ended, f"{line} AND state = {int(state)} AND state <> 3", rest))
    elif over:
        some = "" if len(over) == 3 else f" AND state IN ({', '.join(str(int(state)) for state in sorted(over))})"
        parts.append(_Part("finished_tasks", ended, line, some + rest))
    return parts


_SQL = {"!=": "<>"}


def _given(statement: Statement, condition: Condition) -> str:
    return statement.given(condition.value, _TYPES.get(condition.field, "text"))


def _along(statement: Statement, wanted: TaskFilter, after: Place | None) -> list[str]:
    """Where in the order of the list the page may lie."""
    found = []
    before = "<" if wanted.descending else ">"
    if after is not None and wanted.by_finish_time:
        moment = statement.given(after.finish_time, "timestamptz")
        task_id = statement.given(after.task_id, "uuid")
        found.append(f"finish_time {before}= {moment} AND (finish_time {before} {moment} OR task_id {before} {task_id})")
    elif after is not None:
        found.append(f"task_id {before} {statement.given(after.task_id, 'uuid')}")
    if wanted.by_finish_time:
        return found
    for condition in wanted.conditions:
        if not isinstance(condition.value, datetime):
            continue
        # A task starts and ends after it was created.
        if condition.operator in ("<", "<="):
            found.append(f"task_id < {statement.given(_floor(condition.value + _SLACK), 'uuid')}")
        elif condition.field == "create_time":
            found.append(f"task_id >= {statement.given(_floor(condition.value - _SLACK), 'uuid')}")
    return found


def place_behind(wanted: TaskFilter, edge: datetime | uuid.UUID) -> Place:
    """The place behind all tasks up to an edge."""
    if isinstance(edge, datetime):
        return Place(_SMALLEST if wanted.descending else _LARGEST, edge)
    return Place(str(edge))


def place_of(wanted: TaskFilter, task_id: str, finish_time: datetime | None) -> Place:
    """The place behind one task."""
    return Place(task_id, finish_time if wanted.by_finish_time else None)


def _floor(moment: datetime) -> str:
    """The smallest UUIDv7 of a time (RFC 9562)."""
    milliseconds = (moment - _EPOCH) // timedelta(milliseconds=1)
    return str(uuid.UUID(int=min(max(milliseconds, 0), (1 << 48) - 1) << 80))
