"""What `guildmesh doctor --data` finds out: whether the scheduler's tables say one thing, and a possible one.

All is read in one snapshot (repeatable read, read only), so that a mesh at work is neither disturbed nor seen half way through a
change: each check holds at any moment, and what holds only when all is quiet is told as a note. The logs are streamed; what has
to be known of all tasks at once is asked of PostgreSQL.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg2
import psycopg2.extensions
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Value
from guildmesh.events.v1.task_event_pb2 import TaskEvent, TaskSnapshot

from services.embedded.errors import MeshError
from services.scheduler.domain.shards import lane_of, shards_of
from services.scheduler.domain.task import State
from services.scheduler.storage.event_log import split
from services.scheduler.storage.outbox_codec import unpack

MOST_NAMED = 20
"""problems that a check names; the others are counted."""
_PAGE = 2000
# After this a sweep should have noticed; it comes every second, and a busy machine may be late.
_SWEPT_SECONDS = 60

_ENDS = {"completed": State.COMPLETED, "failed": State.FAILED, "cancelled": State.CANCELLED}


@dataclass
class DataFinding:
    """What one check found."""

    about: str
    rows: int = 0
    """rows that it looked at."""
    problems: list[str] = field(default_factory=list)
    """each names its task; at most MOST_NAMED."""
    wrong: int = 0
    """how many there are."""
    note: str = ""
    """what cannot be judged now."""

    def bad(self, text: str) -> None:
        """Counts a problem, and names it while there are few."""
        self.wrong += 1
        if len(self.problems) < MOST_NAMED:
            self.problems.append(text)


def check_data(url: str) -> list[DataFinding]:
    """Checks all tables of the scheduler in the database of `url`.

    Raises:
        MeshError: the database does not answer, or has no such tables.
    """
    try:
        connection = psycopg2.connect(url, connect_timeout=5, application_name="doctor")
    except psycopg2.Error as error:
        raise MeshError(f"DATABASE_URL does not answer: {_line(error)}") from error
    with closing(connection):
        try:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL ROLE scheduler_engine")
                cursor.execute("SET LOCAL search_path TO scheduler")
            return check_tables(connection)
        except psycopg2.Error as error:
            raise MeshError(f"The scheduler's tables cannot be read: {_line(error)}") from error


def check_tables(connection: psycopg2.extensions.connection) -> list[DataFinding]:
    """All checks, in the transaction of the caller, whose role sees every tenant."""
    return [
        _places(connection),
        *_logs(connection),
        _leases(connection),
        _requests(connection),
        _steps(connection),
        _children(connection),
        _dependencies(connection),
        _overflow(connection),
        _outbox(connection),
        _dead_letters(connection),
        _schedules(connection),
        _lanes(connection),
    ]


def _line(error: psycopg2.Error) -> str:
    return str(error).strip().splitlines()[0]


def _rows(connection: psycopg2.extensions.connection, statement: str, *arguments: object) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, arguments)
        return list(cursor.fetchall())


def _stream(connection: psycopg2.extensions.connection, statement: str) -> Iterator[Any]:
    with connection.cursor(name="doctor") as cursor:
        cursor.itersize = _PAGE
        cursor.execute(statement)
        yield from cursor


def _count(connection: psycopg2.extensions.connection, *tables: str) -> int:
    return sum(int(_rows(connection, f"SELECT count(*) FROM {table}")[0][0]) for table in tables)  # noqa: S608 - our names


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
    for tenant_id, task_id, state, attempt, following, inline, log, result, more in _stream(connection, _LIVES):
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


def _logs(connection: psycopg2.extensions.connection) -> tuple[DataFinding, DataFinding]:
    """Two checks in one reading of all logs.

    Event numbers: 1..N without gaps, each of its own task, as many as the task says. Histories: a log that could have happened,
    and that leads to the state that the row has.
    """
    numbering, histories = DataFinding("event numbers"), DataFinding("histories")
    for life in _lives(connection, histories):
        numbering.rows += len(life.events)
        numbers = [event.number for event in life.events]
        if numbers != list(range(1, life.last + 1)):
            numbering.bad(f"{life.task_id}: should have the events 1 to {life.last}, and has {_short(numbers)}")
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
        yield f"its log begins with {_short(kinds[:3])}"
    ends = [kind for kind in kinds if kind in _ENDS]
    if len(ends) > 1:
        yield f"it ended {len(ends)} times: {_short(ends)}"
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
        if kind != "signalled":
            due = _due(event, kind)
        running = running and kind in ("step_completed", "signalled")
    if not life.state.ended and (due > 0) != (life.state in (State.SCHEDULED, State.WAITING, State.BLOCKED)):
        yield f"it is {life.state.status}, and its log says that it {'waits for something' if due else 'waits for nothing'}"
    if life.attempt != attempt:
        yield f"it is at attempt {life.attempt}, and its log at {attempt}"
    if not life.state.ended and running != (life.state is State.RUNNING):
        yield f"it is {life.state.status}, and its log says {'running' if running else 'waiting'}"
    if life.state is State.COMPLETED and kinds[-1:] == ["completed"]:
        kept = Value.FromString(life.result or b"").SerializeToString(deterministic=True)
        if kept != life.events[-1].completed.result.SerializeToString(deterministic=True):
            yield "its result is not the one of its last event"


def _due(event: TaskEvent, kind: str) -> int:
    """The moment that a task waits for after an event, in microseconds since 1970, or 0; 1 for what may come at any moment."""
    if kind == "waiting" or (kind == "created" and event.created.dependency_ids):
        return 1
    change = getattr(event, kind) if kind in ("created", "retried", "ready") else None
    return change.next_start_time.ToMicroseconds() if change is not None and change.HasField("next_start_time") else 0


_STATES = """
SELECT task_id::text, state FROM tasks WHERE state NOT IN (1, 2, 6, 7, 8)
UNION ALL SELECT task_id::text, state FROM finished_tasks WHERE state NOT IN (3, 4, 5)
"""
_TWICE = "SELECT t.task_id::text FROM tasks t JOIN finished_tasks f ON f.task_id = t.task_id AND f.tenant_id = t.tenant_id"


def _places(connection: psycopg2.extensions.connection) -> DataFinding:
    """Each task in one table: the unended ones in the one, the ended ones in the other."""
    finding = DataFinding("tasks", _count(connection, "tasks", "finished_tasks"))
    for task_id, state in _rows(connection, _STATES):
        finding.bad(f"{task_id}: lies in the wrong table, its state is {state}")
    for (task_id,) in _rows(connection, _TWICE):
        finding.bad(f"{task_id}: is both ended and not")
    waiting = _count(connection, "tasks")
    if waiting:
        finding.note = f"{waiting} have not ended; whether they are left behind can be told when all is quiet"
    return finding


_LEASES = f"""
SELECT task_id::text, state, attempt, max_attempts, worker_id IS NOT NULL, lease_expires IS NOT NULL, deadline IS NOT NULL,
  start_time IS NOT NULL, lease_expires < clock_timestamp() - interval '{_SWEPT_SECONDS} seconds',
  deadline < clock_timestamp() - interval '{_SWEPT_SECONDS} seconds'
FROM tasks
"""  # noqa: S608 - constants only


def _leases(connection: psycopg2.extensions.connection) -> DataFinding:
    """Who runs has a lease, who waits has none, and no lease or timeout is long over."""
    finding = DataFinding("leases")
    for row in _stream(connection, _LEASES):
        task_id, state, attempt, most, worker, lease, deadline, started, stale, late = row
        finding.rows += 1
        if state == State.RUNNING and not (worker and lease and deadline and started):
            finding.bad(f"{task_id}: runs without a worker, a lease, a start or a timeout")
        if state == State.PENDING and lease:
            finding.bad(f"{task_id}: waits, and has a lease")
        if (attempt > 0) != started or (attempt > 0) != deadline:
            finding.bad(f"{task_id}: is at attempt {attempt}, and has {'a' if started else 'no'} start")
        if attempt > most:
            finding.bad(f"{task_id}: is at attempt {attempt} of {most}")
        if stale or late:
            finding.bad(
                f"{task_id}: its {'lease' if stale else 'timeout'} ended over {_SWEPT_SECONDS} s ago; no scheduler sweeps"
            )
    return finding


# A partition that was taken out is seen by nobody; what its tasks leave behind goes with it, bit by bit.
_LEAVING = """
SELECT FROM task_partitions p WHERE p.detach_time IS NOT NULL AND {task_id} >= p.lower_id AND {task_id} < p.upper_id
"""
_REQUESTS = f"""
SELECT q.request_id, q.task_id::text FROM task_requests q
WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.task_id = q.task_id AND t.tenant_id = q.tenant_id)
  AND NOT EXISTS (SELECT FROM finished_tasks f WHERE f.task_id = q.task_id AND f.tenant_id = q.tenant_id)
  AND NOT EXISTS ({_LEAVING.format(task_id="q.task_id")})
"""  # noqa: S608 - constants only
_SHARED = """
SELECT min(request_id), task_id::text, count(*) FROM task_requests GROUP BY tenant_id, task_id HAVING count(*) > 1
"""


def _requests(connection: psycopg2.extensions.connection) -> DataFinding:
    """A request id leads to the one task that was made for it."""
    finding = DataFinding("request ids", _count(connection, "task_requests"))
    for request_id, task_id in _rows(connection, _REQUESTS):
        finding.bad(f"{task_id}: the request {request_id!r} leads to it, and it is not there")
    for request_id, task_id, number in _rows(connection, _SHARED):
        finding.bad(f"{task_id}: {number} requests lead to it, such as {request_id!r}")
    return finding


_STEPS = """
SELECT s.task_id::text, s.step_id, s.attempt, t.attempt FROM task_steps s
LEFT JOIN tasks t ON t.task_id = s.task_id AND t.tenant_id = s.tenant_id
WHERE t.task_id IS NULL OR s.attempt > t.attempt OR s.number >= t.next_event_number OR NOT t.has_steps
"""


def _steps(connection: psycopg2.extensions.connection) -> DataFinding:
    """A journal belongs to a task that has not ended."""
    finding = DataFinding("step journals", _count(connection, "task_steps"))
    for task_id, step_id, attempt, newest in _rows(connection, _STEPS):
        text = "the task has ended or is not there" if newest is None else f"attempt {attempt} wrote it, the task is at {newest}"
        finding.bad(f"{task_id}: the step {step_id!r} does not fit: {text}")
    return finding


_CHILDREN = """
SELECT c.task_id::text, p.state FROM tasks c
LEFT JOIN LATERAL (
  SELECT state, has_children FROM tasks p WHERE p.task_id = c.parent_task_id AND p.tenant_id = c.tenant_id
  UNION ALL
  SELECT state, true FROM finished_tasks f WHERE f.task_id = c.parent_task_id AND f.tenant_id = c.tenant_id
) p ON true
WHERE c.parent_task_id IS NOT NULL AND (p.state IS NULL OR p.state IN (3, 4, 5) OR NOT p.has_children)
"""


def _children(connection: psycopg2.extensions.connection) -> DataFinding:
    """A subtask that has not ended has a parent that has not ended either, and knows of it."""
    [(number,)] = _rows(connection, "SELECT count(*) FROM tasks WHERE parent_task_id IS NOT NULL")
    finding = DataFinding("subtasks", number)
    for task_id, state in _rows(connection, _CHILDREN):
        if state is None:
            finding.bad(f"{task_id}: its parent is not there")
        elif State(state).ended:
            finding.bad(f"{task_id}: goes on, and its parent has ended")
        else:
            finding.bad(f"{task_id}: its parent does not know of it")
    return finding


# Who has ended and has not told all of its dependants is known to the sweeper.
_DEPENDENCIES = """
SELECT d.task_id::text, d.upstream_id::text, CASE
  WHEN t.task_id IS NULL THEN 'the task has ended or is not there'
  WHEN t.blocked_by IS NULL THEN 'the task does not know of it'
  WHEN d.upstream_state IS NOT NULL THEN NULL
  WHEN u.task_id IS NOT NULL AND NOT u.has_dependants THEN 'the dependency does not know of it'
  WHEN u.task_id IS NULL AND w.task_id IS NULL THEN 'the dependency has ended, and the task was not told'
  END AS problem
FROM task_dependencies d
LEFT JOIN tasks t ON t.task_id = d.task_id AND t.tenant_id = d.tenant_id
LEFT JOIN tasks u ON u.task_id = d.upstream_id AND u.tenant_id = d.tenant_id
LEFT JOIN unsettled_tasks w ON w.task_id = d.upstream_id AND w.tenant_id = d.tenant_id
"""
_BLOCKED = """
SELECT t.task_id::text, t.blocked_by, count(d.task_id) FILTER (WHERE d.upstream_state IS NULL) FROM tasks t
LEFT JOIN task_dependencies d ON d.task_id = t.task_id AND d.tenant_id = t.tenant_id
WHERE t.state = 8 OR t.blocked_by IS NOT NULL GROUP BY t.tenant_id, t.task_id, t.state, t.blocked_by
HAVING t.blocked_by IS DISTINCT FROM count(d.task_id) FILTER (WHERE d.upstream_state IS NULL)
  OR (t.state = 8) <> (t.blocked_by > 0)
"""


def _dependencies(connection: psycopg2.extensions.connection) -> DataFinding:
    """A task is BLOCKED as long as what it depends on has not ended, and knows by how many."""
    finding = DataFinding("dependencies", _count(connection, "task_dependencies"))
    for task_id, upstream_id, problem in _rows(connection, f"SELECT * FROM ({_DEPENDENCIES}) d WHERE problem IS NOT NULL"):  # noqa: S608
        finding.bad(f"{task_id}: its dependency on {upstream_id} does not fit: {problem}")
    for task_id, blocked_by, unresolved in _rows(connection, _BLOCKED):
        finding.bad(f"{task_id}: is blocked by {blocked_by}, and {unresolved} of its dependencies have not ended")
    return finding


_ORPHANS = f"""
SELECT e.task_id::text, count(*) FROM task_events e
WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.task_id = e.task_id AND t.tenant_id = e.tenant_id AND e.number > t.log_events)
  AND NOT EXISTS (
    SELECT FROM finished_tasks f WHERE f.task_id = e.task_id AND f.tenant_id = e.tenant_id AND e.number > f.log_events)
  AND NOT EXISTS ({_LEAVING.format(task_id="e.task_id")})
GROUP BY e.tenant_id, e.task_id
"""  # noqa: S608 - constants only


def _overflow(connection: psycopg2.extensions.connection) -> DataFinding:
    """Events outside of a task's row go on where the row's end."""
    finding = DataFinding("long logs", _count(connection, "task_events"))
    for task_id, number in _rows(connection, _ORPHANS):
        finding.bad(f"{task_id}: {number} events that belong to no task, or that lie in its row as well")
    return finding


_OUTBOX = "SELECT lane, position, events, payload FROM outbox ORDER BY lane, position"
_LOGS = """
SELECT task_id::text, log FROM tasks WHERE task_id = ANY(%s::uuid[])
UNION ALL SELECT task_id::text, log FROM finished_tasks WHERE task_id = ANY(%s::uuid[])
"""
_LONG_LOGS = "SELECT task_id::text, value FROM task_events WHERE task_id = ANY(%s::uuid[]) ORDER BY task_id, number"


def _outbox(connection: psycopg2.extensions.connection) -> DataFinding:
    """What waits for Kafka is what the logs have, in their order, in the right lane."""
    finding = DataFinding("outbox")
    newest: dict[str, int] = {}
    # Of several events of a task in one commit only the last has the state.
    stateless: dict[str, int] = {}
    leaving = _rows(
        connection,
        "SELECT lower_id::text, upper_id::text FROM task_partitions WHERE detach_time IS NOT NULL AND lower_id IS NOT NULL",
    )
    for lane, position, events, payload in _rows(connection, _OUTBOX):
        finding.rows += 1
        where = f"lane {lane}, position {position}"
        try:
            records = list(unpack(bytes(payload)))
            told = [TaskEvent.FromString(record.value) for record in records]
            states = [TaskSnapshot.FromString(record.snapshot) for record in records]
        except (DecodeError, struct.error, UnicodeDecodeError) as error:
            finding.bad(f"{where}: cannot be read: {error}")
            continue
        if events != len(records):
            finding.bad(f"{where}: should hold {events} events, and holds {len(records)}")
        kept = _logs_of(connection, sorted({record.task_id for record in records}))
        shards = shards_of([record.task_id for record in records]) if records else []
        for record, event, state, shard in zip(records, told, states, shards, strict=True):
            task_id = record.task_id
            if record.shard != shard or lane_of(shard) != lane:
                finding.bad(f"{task_id}: waits in {where} as shard {record.shard}, and belongs to shard {shard}")
            if record.tombstone or any(lower <= task_id < upper for lower, upper in leaving):
                continue
            if record.value not in kept.get(task_id, ()):
                finding.bad(f"{task_id}: number {event.number} waits for Kafka, and is not what its log has")
            stateless.pop(task_id, None)
            if not record.snapshot:
                stateless[task_id] = event.number
            elif (state.task_id, state.last_event_number) != (event.task_id, event.number):
                finding.bad(f"{task_id}: number {event.number} waits with the state after {state.last_event_number}")
            before = newest.get(task_id, 0)
            if before and event.number != before + 1:
                finding.bad(f"{task_id}: number {event.number} waits behind {before}")
            newest[task_id] = event.number
    for task_id, number in stateless.items():
        finding.bad(f"{task_id}: number {number} waits without a state, and nothing that has one follows")
    if finding.rows:
        finding.note = f"{finding.rows} rows wait for Kafka; whether a relay takes them can be told when all is quiet"
    return finding


def _logs_of(connection: psycopg2.extensions.connection, task_ids: Sequence[str]) -> dict[str, set[bytes]]:
    found: dict[str, set[bytes]] = {}
    for task_id, log in _rows(connection, _LOGS, list(task_ids), list(task_ids)):
        found.setdefault(task_id, set()).update(split(bytes(log)))
    for task_id, value in _rows(connection, _LONG_LOGS, list(task_ids)):
        found.setdefault(task_id, set()).add(bytes(value))
    return found


_UNTOLD = """
SELECT task_id::text FROM finished_tasks f
WHERE state = 4 AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.task_id = f.task_id AND d.tenant_id = f.tenant_id)
"""
_DEAD_LETTERS = f"""
SELECT d.task_id::text, f.state, d.retention_days = f.retention_days, (d.replay_task_id IS NULL) = (d.replay_time IS NULL)
FROM dead_letters d LEFT JOIN finished_tasks f ON f.task_id = d.task_id AND f.tenant_id = d.tenant_id
WHERE NOT EXISTS ({_LEAVING.format(task_id="d.task_id")} AND p.retention_days = d.retention_days)
"""  # noqa: S608 - constants only


def _dead_letters(connection: psycopg2.extensions.connection) -> DataFinding:
    """Each task that failed and is kept has its dead letter, and the other way round."""
    finding = DataFinding("dead letters", _count(connection, "dead_letters"))
    for (task_id,) in _rows(connection, _UNTOLD):
        finding.bad(f"{task_id}: failed, and has no dead letter; POST /v1/tasks/{task_id}:replay makes it")
    for task_id, state, kept_as_told, told in _rows(connection, _DEAD_LETTERS):
        if state != State.FAILED:
            finding.bad(f"{task_id}: is a dead letter, and {'is not there' if state is None else 'did not fail'}")
        elif not kept_as_told:
            finding.bad(f"{task_id}: is kept for other days than its dead letter says")
        elif not told:
            finding.bad(f"{task_id}: says when it was replayed and not as what, or the other way round")
    return finding


_SCHEDULES = """
SELECT schedule_id, paused, next_time, wake_time, buffered_time IS NOT NULL,
  wake_time < clock_timestamp() - %s * interval '1 s'
FROM schedules
"""


def _schedules(connection: psycopg2.extensions.connection) -> DataFinding:
    """A schedule is looked at when its next run is due, and a paused one never."""
    rows = _rows(connection, _SCHEDULES, _SWEPT_SECONDS)
    finding = DataFinding("schedules", len(rows))
    late = []
    for schedule_id, paused, next_time, wake_time, waits, overdue in rows:
        if paused and (next_time or wake_time or waits):
            finding.bad(f"{schedule_id}: is paused, and has a run to start")
        elif (next_time is None) != (wake_time is None):
            finding.bad(f"{schedule_id}: has a next run that nobody will look at, or is looked at for none")
        elif next_time is not None and wake_time < next_time:
            finding.bad(f"{schedule_id}: its next run is due before its time")
        elif overdue:
            late.append(schedule_id)
    if late:
        finding.note = f"runs of {_short(late)} are over {_SWEPT_SECONDS} s late; start a scheduler if that lasts"
    return finding


def _lanes(connection: psycopg2.extensions.connection) -> DataFinding:
    """Somebody publishes each lane."""
    rows = _rows(
        connection, "SELECT lane, owner IS NOT NULL AND lease_expires > clock_timestamp() FROM relay_lanes ORDER BY lane"
    )
    finding = DataFinding("relay lanes", len(rows))
    free = [lane for lane, published in rows if not published]
    if not rows:
        finding.bad("there are no lanes, so nothing would ever be published")
    if free:
        finding.note = f"nobody publishes the lanes {_short(free)} now; start a relay if that lasts"
    return finding


def _short(items: Sequence[object]) -> str:
    text = ", ".join(map(str, items[:12]))
    return f"{text}{', …' if len(items) > 12 else ''}" or "none"
