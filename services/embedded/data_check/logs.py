"""Logs: event numbers, histories that could have happened, and events that do not lie in a task's row."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg2.extensions
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Value
from guildmesh.events.v1.task_event_pb2 import PayloadReference, TaskEvent

from services.embedded.data_check.finding import DataFinding, short
from services.embedded.data_check.reading import LEAVING, count_rows, read_rows, stream_rows
from services.scheduler.domain.payload import is_payload, reference_in
from services.scheduler.domain.task import State
from services.scheduler.storage.event_log import split

_BESIDE = frozenset({"signalled", "child_created", "child_ended", "tool_called", "tool_returned"})
"""events that leave the state of their task as it is, whichever it is."""
_WHILE_RUNNING = frozenset({"step_completed", "progressed", "output"})
_ENDS = {"completed": State.COMPLETED, "failed": State.FAILED, "cancelled": State.CANCELLED}
# All tasks, each with the events that its row had no room for.
_LIVES = """
SELECT t.*, (SELECT array_agg(e.value ORDER BY e.number) FROM task_events e
             WHERE e.tenant_id = t.tenant_id AND e.task_id = t.task_id::uuid AND t.next_event_number - 1 > t.log_events)
FROM (
  SELECT tenant_id, task_id::text, state, attempt, next_event_number, log_events, log, NULL::bytea AS result FROM tasks
  UNION ALL
  SELECT tenant_id, task_id::text, state, attempt, next_event_number, log_events, log, result FROM finished_tasks
) t
"""


@dataclass(frozen=True)
class _Life:
    tenant_id: str
    task_id: str
    state: State
    attempt: int
    last: int
    inline: int
    events: Sequence[TaskEvent]
    framed: int
    """events that lie in the task's own row."""
    result: bytes | None


def _lives(connection: psycopg2.extensions.connection, finding: DataFinding) -> Iterator[_Life]:
    for tenant_id, task_id, state, attempt, following, inline, log, result, more in stream_rows(connection, _LIVES):
        finding.rows += 1
        try:
            framed = [TaskEvent.FromString(part) for part in split(bytes(log))]
            events = [*framed, *(TaskEvent.FromString(bytes(value)) for value in more or ())]
            life = State(state)
        except (DecodeError, struct.error, ValueError) as error:
            finding.bad(f"{task_id}: its log cannot be read: {error}")
            continue
        value = None if result is None else bytes(result)
        yield _Life(tenant_id, task_id, life, attempt, following - 1, inline, events, len(framed), value)


def check_logs(connection: psycopg2.extensions.connection) -> tuple[DataFinding, DataFinding]:
    """Two checks in one reading of all logs.

    Event numbers: 1..N without gaps, each of its own task, as many as the task says. Histories: a log that could have happened,
    and that leads to the state that the row has.
    """
    numbering, histories = DataFinding("event numbers"), DataFinding("histories")
    for life in _lives(connection, histories):
        numbering.rows += len(life.events)
        numbers = [event.number for event in life.events]
        if numbers != list(range(1, life.last + 1)):
            numbering.bad(f"{life.task_id}: should have the events 1 to {life.last}, and has {short(numbers)}")
        if life.inline != life.framed:
            numbering.bad(f"{life.task_id}: its row should hold {life.inline} events, and holds {life.framed}")
        if any((event.task_id, event.tenant_id) != (life.task_id, life.tenant_id) for event in life.events):
            numbering.bad(f"{life.task_id}: its log has events of another task")
        for text in _story(life):
            histories.bad(f"{life.task_id}: {text}")
    return numbering, histories


def _story(life: _Life) -> Iterator[str]:
    kinds = [event.WhichOneof("change") or "nothing" for event in life.events]
    if kinds[:1] != ["created"] or kinds.count("created") != 1:
        yield f"its log begins with {short(kinds[:3])}"
    ends = [kind for kind in kinds if kind in _ENDS]
    if len(ends) > 1:
        yield f"it ended {len(ends)} times: {short(ends)}"
    last = _ENDS.get(kinds[-1]) if kinds else None
    if last != (life.state if life.state.ended else None):
        yield f"it is {life.state.status}, and its last event is {kinds[-1] if kinds else 'missing'}"
    attempt, running, due = 0, False, 0
    for event, kind in zip(life.events, kinds, strict=True):
        if kind == "started":
            if due:
                yield f"attempt {event.attempt} started, and its moment had not come"
            if running or event.attempt != attempt + 1:
                yield f"attempt {event.attempt} started while {attempt} was the newest"
            attempt, running = event.attempt, True
            continue
        if event.attempt != attempt:
            yield f"number {event.number}, {kind}, is of attempt {event.attempt}, not {attempt}"
        elif kind in ("completed", "step_completed", "retried", "waiting") and not running:
            yield f"number {event.number} is {kind}, when no attempt ran"
        if kind == "ready" and not due:
            yield f"number {event.number} is ready, and it waited for nothing"
        elif kind == "ready" and event.event_time.ToMicroseconds() < due:
            yield f"number {event.number} is ready before its moment"
        if kind not in _BESIDE:
            due = _due(event, kind)
        running = running and (kind in _BESIDE or kind in _WHILE_RUNNING)
    if not life.state.ended and (due > 0) != (life.state in (State.SCHEDULED, State.WAITING, State.BLOCKED)):
        yield f"it is {life.state.status}, and its log says that it {'waits for something' if due else 'waits for nothing'}"
    if life.attempt != attempt:
        yield f"it is at attempt {life.attempt}, and its log at {attempt}"
    if not life.state.ended and running != (life.state is State.RUNNING):
        yield f"it is {life.state.status}, and its log says {'running' if running else 'waiting'}"
    if life.state is State.COMPLETED and kinds[-1:] == ["completed"]:
        result, told = life.result or b"", life.events[-1].completed
        if is_payload(result):
            same = told.result_payload == PayloadReference.FromString(reference_in(result)) and not told.HasField("result")
        else:
            same = told.result == Value.FromString(result) and not told.HasField("result_payload")
        if not same:
            yield "its result is not the one of its last event"


def _due(event: TaskEvent, kind: str) -> int:
    """The moment that a task waits for after an event, in microseconds since 1970, or 0; 1 for what may come at any moment."""
    if kind == "waiting" or (kind == "created" and event.created.dependency_ids):
        return 1
    change = getattr(event, kind) if kind in ("created", "retried", "ready") else None
    return change.next_start_time.ToMicroseconds() if change is not None and change.HasField("next_start_time") else 0


_ORPHANS = f"""
SELECT e.task_id::text, count(*) FROM task_events e
WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.task_id = e.task_id AND t.tenant_id = e.tenant_id AND e.number > t.log_events)
  AND NOT EXISTS (
    SELECT FROM finished_tasks f WHERE f.task_id = e.task_id AND f.tenant_id = e.tenant_id AND e.number > f.log_events)
  AND NOT EXISTS ({LEAVING.format(task_id="e.task_id")})
GROUP BY e.tenant_id, e.task_id
"""  # noqa: S608 - constants only


def check_overflow(connection: psycopg2.extensions.connection) -> DataFinding:
    """Events outside of a task's row go on where the row's end."""
    finding = DataFinding("long logs", count_rows(connection, "task_events"))
    for task_id, number in read_rows(connection, _ORPHANS):
        finding.bad(f"{task_id}: {number} events that belong to no task, or that lie in its row as well")
    return finding
