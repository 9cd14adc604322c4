"""Gathers the changes of one transaction and writes them in few statements: tasks, events, outbox, and at most one NOTIFY."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from services.scheduler.domain.event_content import LARGE, EventContent, EventKey
from services.scheduler.domain.event_content_ports import EventContents
from services.scheduler.domain.events import Change, Created
from services.scheduler.domain.run import Run
from services.scheduler.domain.shards import lane_of
from services.scheduler.domain.task import State, StoredEvent
from services.scheduler.domain.wake import CHANNEL, DISPATCH_CHANNEL, Wake, bucket_of, encode, encode_decided
from services.scheduler.storage.child_changes import leave_changes
from services.scheduler.storage.event_codec import encode_event, encode_snapshot
from services.scheduler.storage.event_log import INLINE_BYTES, frame
from services.scheduler.storage.outbox_codec import pack
from services.scheduler.storage.published_event import published_event
from services.scheduler.storage.waking import Waker

_UPDATE = """
UPDATE tasks t SET
  state = c.state, attempt = c.attempt, next_event_number = c.next_event_number, available_at = c.available_at,
  worker_id = c.worker_id, lease_expires = c.lease_expires, start_time = c.start_time, deadline = c.deadline,
  progress = c.progress, has_steps = c.has_steps, log = t.log || c.log, log_events = c.log_events,
  attempt_ends = c.attempt_ends, quiet_ends = c.quiet_ends, waits = c.waits, wait_signal = c.wait_signal,
  wait_prompt = c.wait_prompt, time_left_ms = c.time_left_ms, blocked_by = t.blocked_by * (c.state = 8)::int,
  output = c.output,
  -- While it runs a later moment need not be said: the sweeper looks, and looks again then.
  check_at = CASE WHEN t.state = 2 AND c.state = 2 THEN t.check_at ELSE c.check_at END
FROM unnest($1::text[], $2::uuid[], $3::smallint[], $4::int[], $5::int[], $6::timestamptz[], $7::text[], $8::timestamptz[],
  $9::timestamptz[], $10::timestamptz[], $11::real[], $12::bool[], $13::bytea[], $14::int[], $15::timestamptz[],
  $16::timestamptz[], $17::int[], $18::text[], $19::text[], $20::int[], $21::timestamptz[], $22::bigint[])
  AS c (tenant_id, task_id, state, attempt, next_event_number, available_at, worker_id, lease_expires, start_time, deadline,
    progress, has_steps, log, log_events, attempt_ends, quiet_ends, waits, wait_signal, wait_prompt, time_left_ms,
    check_at, output)
WHERE t.task_id = c.task_id AND t.tenant_id = c.tenant_id AND t.task_id = ANY($2)
"""
# What has ended moves, within the server, to where nothing changes any more.
_FINISH_AS = """
WITH gone AS (
  DELETE FROM tasks t
  USING unnest($1::text[], $2::uuid[], $3::smallint[], $4::int[], $5::int[], $6::timestamptz[], $7::real[], $8::bytea[],
    $9::text[], $10::text[], $11::bytea[], $12::int[])
    AS c (tenant_id, task_id, state, attempt, next_event_number, finish_time, progress, result, error_reason, error_message,
      log, log_events)
  WHERE t.task_id = c.task_id AND t.tenant_id = c.tenant_id AND t.task_id = ANY($2)
  RETURNING t.tenant_id, t.task_id, t.create_time, t.start_time, c.finish_time, c.state, c.attempt, c.next_event_number,
    c.log_events, c.progress, t.parent_task_id, t.queue, t.kind, t.traceparent, c.error_reason, c.error_message, t.spec,
    t.context, t.log || c.log, c.result, t.priority, {retention_days} AS retention_days, t.event_content, t.event_key_id
){besides}
INSERT INTO finished_tasks (tenant_id, task_id, create_time, start_time, finish_time, state, attempt, next_event_number,
  log_events, progress, parent_task_id, queue, kind, traceparent, error_reason, error_message, spec, context, log, result,
  priority, retention_days, event_content, event_key_id)
SELECT * FROM gone
"""
_FINISH = _FINISH_AS.format(retention_days="t.retention_days", besides="")
# What failed is kept apart as well, for as long as its queue says now.
_FAIL = _FINISH_AS.format(
    retention_days="""COALESCE((
      SELECT q.dead_letter_retention_days FROM queues q WHERE q.queue = t.queue AND q.tenant_id IN (t.tenant_id, '*')
      ORDER BY q.tenant_id = '*' LIMIT 1
    ), t.retention_days)""",
    besides=""", kept AS (
  INSERT INTO dead_letters (tenant_id, task_id, queue, kind, fail_time, reason, attempts, retention_days)
  SELECT tenant_id, task_id, queue, kind, finish_time, error_reason, attempt, retention_days FROM gone
)""",
)
_FORGET_STEPS = """
DELETE FROM task_steps WHERE (tenant_id, task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
  AND tenant_id = ANY($1) AND task_id = ANY($2)
"""
_FORGET_APPENDED = _FORGET_STEPS.replace("task_steps", "appended_events")
_FORGET_DEPENDENCIES = """
DELETE FROM task_dependencies WHERE (tenant_id, task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
  AND tenant_id = ANY($1) AND task_id = ANY($2)
"""
_EVENTS = """
INSERT INTO task_events (tenant_id, task_id, number, value) SELECT * FROM unnest($1::text[], $2::uuid[], $3::int[], $4::bytea[])
"""
_QUEUED = """
queued AS (
  INSERT INTO outbox (lane, tenant_id, events, payload)
  SELECT o.lane, ${2}, o.events, o.payload
  FROM unnest(${0}::smallint[], ${1}::int[], ${3}::bytea[]) WITH ORDINALITY AS o (lane, events, payload, line){only}
  ORDER BY o.line
), counted AS (
  INSERT INTO task_count_changes (queues, states, changes)
  SELECT ${6}::text[], ${7}::smallint[], ${8}::int[] WHERE ${6} <> '{{}}'{and_only}
)"""
_NOTIFIED = "pg_notify(${4}, ${5})"


def queued(first: int, only: str = "") -> str:
    """What a statement has among its WITH to write the arguments of `ChangeLog.queued`, the first of which is $`first`.

    With `only`, a condition, nothing is written unless it holds.
    """
    return _QUEUED.format(
        *range(first, first + 9), only=f" WHERE {only}" if only else "", and_only=f" AND {only}" if only else ""
    )


def notified(first: int) -> str:
    """What such a statement selects in order that the waiting hear of it."""
    return _NOTIFIED.format(*range(first, first + 9))


_OUTBOX = f"WITH {queued(1)} SELECT {notified(1)}"
_TELL_DECIDED = "SELECT pg_notify($1, p) FROM unnest($2::text[]) AS p"
# A row is what the relay reads at least; small ones keep it within its memory.
_ROW_BYTES = 1 << 20


@dataclass(slots=True)
class Event:
    """The next event of a run."""

    number: int
    type: str
    value: bytes
    now: datetime


def event_of(run: Run, change: Change, actor: str, now: datetime) -> Event:
    """The next event of a run that the change has been made to."""
    number = run.next_event_number
    return Event(number, change.type, encode_event(run, number, change, actor, now), now)


@dataclass(slots=True)
class ChangeLog:
    """The changes of one transaction, in the order they were made."""

    origin: str
    watched: Collection[tuple[str, str]] = ()
    """tasks (tenant and id) whose events the wake is to carry."""
    tenant_id: str = "*"
    """the tenant that the transaction is held to; * for none."""
    decides: bool = False
    """whether this process decides what starts, so that of what ends it need not be told by the database."""
    fenced: bool = False
    """whether it goes on to decide until the commit, so that of what is created it need not be told at all but by its answer."""
    contents: EventContents | None = None
    """what of users' texts goes to Kafka; None for all."""
    keys: dict[str, EventKey] = field(default_factory=dict)
    """the keys of runs whose events are encrypted, by their ids, before `queued`."""
    wake: Wake = field(init=False)
    _runs: dict[str, Run] = field(default_factory=dict)
    _written: set[str] = field(default_factory=set)
    _logs: dict[str, bytes] = field(default_factory=dict)
    _events: list[tuple[str, str, int, bytes]] = field(default_factory=list)
    _outbox: list[tuple[Run, Event]] = field(default_factory=list)
    _of_children: list[tuple[Run, str, State | None]] = field(default_factory=list)
    """subtasks that were created (None) or have ended, and who did it."""
    _large: bool = False
    """whether an event may be too large for Kafka."""

    @classmethod
    def of(cls, waker: Waker, tenant_id: str = "*") -> ChangeLog:
        """An empty one for a transaction of this process."""
        return cls(waker.origin, waker.watched, tenant_id, contents=waker.contents)

    def __post_init__(self) -> None:
        self.wake = Wake(origin=self.origin)

    def add(self, run: Run, change: Change, actor: str, now: datetime) -> int:
        """Numbers an event of a run whose row is locked (or made) by this transaction; gives the number."""
        event = event_of(run, change, actor, now)
        number, value, task_id = event.number, event.value, run.task_id
        run.next_event_number = number + 1
        framed = frame(value)
        if run.log_events == number - 1 and run.log_bytes + len(framed) <= INLINE_BYTES:
            run.log_events = number
            run.log_bytes += len(framed)
            self._logs[task_id] = self._logs[task_id] + framed if task_id in self._logs else framed
        else:
            self._events.append((run.tenant_id, task_id, number, value))
            self._large = self._large or len(value) > LARGE
        self._runs[task_id] = run
        self._outbox.append((run, event))
        if run.parent_task_id is not None:
            self._add_child(run, actor, created=isinstance(change, Created))
        return number

    def add_written(self, run: Run, event: Event, actor: str) -> None:
        """Adds an event that lies in the task's row already, as the row's last change of this transaction."""
        if run.parent_task_id is not None:
            self._add_child(run, actor, created=False)
        run.next_event_number = event.number + 1
        self._written.add(run.task_id)
        self._runs[run.task_id] = run
        self._outbox.append((run, event))

    def beside(self) -> ChangeLog:
        """An empty log for a statement that writes all of its changes or none."""
        return ChangeLog(self.origin, self.watched, self.tenant_id, self.decides, self.fenced, self.contents)

    def stop(self, run: Run, attempt: int, reason: str) -> None:
        """Has the worker of a run told to stop."""
        if self.wake.stops is not None:
            self.wake.stops.append((run.task_id, attempt, reason))

    def _add_child(self, run: Run, actor: str, *, created: bool) -> None:
        if created:
            self._of_children.append((run, actor, None))
        elif run.state.ended:
            self._of_children.append((run, actor, run.state))

    def log_of(self, task_id: str) -> bytes:
        """The new events that belong into the task's own row."""
        return self._logs.get(task_id, b"")

    def __bool__(self) -> bool:
        return bool(self._runs or self.wake.shards)

    async def write(self, connection: asyncpg.Connection, *, written: bool = False) -> None:
        """Writes everything; with `written` the tasks' own rows are the caller's to write."""
        if not self._runs:
            return
        if not written:
            runs = [run for run in self._runs.values() if run.task_id not in self._written]
            await self._update(connection, [run for run in runs if not run.state.ended])
            await self._finish(connection, [run for run in runs if run.state.ended and run.state is not State.FAILED])
            await self._finish(connection, [run for run in runs if run.state is State.FAILED], _FAIL)
        await self.write_long_events(connection)
        await self.read_keys(connection)
        await connection.execute(_OUTBOX, *self.queued())
        await self.tell_others(connection)

    async def write_long_events(self, connection: asyncpg.Connection) -> None:
        """Writes the events that have no room in their tasks' rows."""
        if self._events:
            await connection.execute(_EVENTS, *(list(column) for column in zip(*self._events, strict=True)))

    async def read_keys(self, connection: asyncpg.Connection) -> None:
        """Gets the keys of runs whose events are encrypted, before `queued`; most commits have none."""
        if self.contents is None or not self._chosen():
            return
        wanted = {run.event_key_id for run in self._runs.values() if run.event_key_id is not None} - self.keys.keys()
        if wanted:
            self.keys |= await self.contents.keys.by_id(connection, wanted)

    async def tell_others(self, connection: asyncpg.Connection) -> None:
        """Leaves what their parents are to be told of subtasks, and tells the replica that decides of its tasks, after `queued`.

        Most commits have nothing of both.
        """
        # By the end of its parent a subtask ends too, and that parent has no event more.
        changes = [it for it in self._of_children if not self._has_ended(it[0].parent_task_id)]
        if changes:
            await leave_changes(connection, changes)
            self.wake.parents = True
        if payloads := encode_decided(self.wake, over=not self.decides):
            await connection.execute(_TELL_DECIDED, DISPATCH_CHANNEL, payloads)

    def _has_ended(self, task_id: str | None) -> bool:
        run = None if task_id is None else self._runs.get(task_id)
        return run is not None and run.state.ended

    def queued(self) -> tuple[object, ...]:
        """The arguments for what waits for Kafka, the counts, and the one NOTIFY; there must be changes."""
        runs = self._runs.values()
        plain = [run for run in runs if run.state is State.PENDING and run.queue_tenant is None]
        wake = Wake(kinds={run.kind for run in plain}, buckets=set(map(bucket_of, self._runs)))
        decided = [run for run in runs if run.queue_tenant is not None and run.counted is not run.state]
        waiting = [run for run in decided if not run.state.ended and run.state is not State.RUNNING]
        wake.decided = [run.task_id for run in waiting if not (self.fenced and run.state is State.PENDING)]
        wake.over = [run.task_id for run in decided if run.state.ended]
        # Those that were there before, and waited for something else or ran.
        wake.again = min((run.position for run in plain if run.counted is not None), default=None)
        for shard in {run.shard for run in runs}:
            wake.shards |= 1 << shard
        if self.watched:
            for run, event in self._outbox:
                if (key := (run.tenant_id, run.task_id)) in self.watched:
                    wake.events.append((key, StoredEvent(event.number, event.type, event.value), run))
        self.wake.add(wake)
        rows = [(lane, len(part), b"".join(part)) for lane, records in self._records().items() for part in _parts(records)]
        lanes, events, payloads = zip(*rows, strict=True)
        queues, states, changes = self._count()
        return lanes, events, self.tenant_id, payloads, CHANNEL, encode(self.wake), queues, states, changes

    def _records(self) -> dict[int, list[bytes]]:
        """The records of each lane, in order. Only a task's last one has its state: no reader is told of those between."""
        lanes: dict[int, list[bytes]] = {}
        last = {run.task_id: event for run, event in self._outbox}
        whole = not self._large and (self.contents is None or self.contents.plain) and not self._chosen()
        for run, event in self._outbox:
            task_id = run.task_id
            if whole:
                snapshot = encode_snapshot(run, event.number, event.now) if last[task_id] is event else b""
                record = pack(run.shard, task_id, run.traceparent, event.value, snapshot)
            else:
                record = self._reduced(run, event, newest=last[task_id] is event)
            lane = lane_of(run.shard)
            if lane in lanes:
                lanes[lane].append(record)
            else:
                lanes[lane] = [record]
        return lanes

    def _chosen(self) -> bool:
        """Whether any of the tasks was created in a queue that does not publish everything."""
        for run in self._runs.values():  # noqa: SIM110 - `any` of a generator takes three times as long
            if run.event_content is not None:
                return True
        return False

    def _reduced(self, run: Run, event: Event, *, newest: bool) -> bytes:
        """The record of an event of which not everything may go to Kafka."""
        content = run.event_content or EventContent.PLAIN
        if self.contents is not None:
            content = content.at_least(self.contents.of(run.tenant_id, run.queue))
        value, key_id = published_event(event.value, content, self.keys.get(run.event_key_id or ""))
        hashes = content is not EventContent.ENCRYPTED
        snapshot = encode_snapshot(run, event.number, event.now, hashes=hashes) if newest else b""
        return pack(run.shard, run.task_id, run.traceparent, value, snapshot, key_id)

    def _count(self) -> tuple[list[str], list[int], list[int]]:
        """How many tasks more (or fewer) each queue has in each state."""
        moves = Counter((run.queue, run.counted, run.state) for run in self._runs.values())
        changes: Counter[tuple[str, int]] = Counter()
        for (queue, before, after), number in moves.items():
            if before is not after:
                changes[queue, int(after)] += number
                if before is not None:
                    changes[queue, int(before)] -= number
        keys = sorted(changes)
        return [queue for queue, _ in keys], [state for _, state in keys], [changes[key] for key in keys]

    async def _update(self, connection: asyncpg.Connection, runs: Sequence[Run]) -> None:
        if not runs:
            return
        await connection.execute(
            _UPDATE,
            [run.tenant_id for run in runs],
            [run.task_id for run in runs],
            [int(run.state) for run in runs],
            [run.attempt for run in runs],
            [run.next_event_number for run in runs],
            [run.available_at for run in runs],
            [run.worker_id for run in runs],
            [run.lease_expires for run in runs],
            [run.start_time for run in runs],
            [run.deadline for run in runs],
            [run.progress for run in runs],
            [run.has_steps for run in runs],
            [self.log_of(run.task_id) for run in runs],
            [run.log_events for run in runs],
            [run.attempt_ends for run in runs],
            [run.quiet_ends for run in runs],
            [run.waits for run in runs],
            [run.signal for run in runs],
            [run.prompt for run in runs],
            [run.time_left_ms for run in runs],
            [run.check_at for run in runs],
            [run.output for run in runs],
        )

    async def _finish(self, connection: asyncpg.Connection, runs: Sequence[Run], statement: str = _FINISH) -> None:
        if not runs:
            return
        await connection.execute(
            statement,
            [run.tenant_id for run in runs],
            [run.task_id for run in runs],
            [int(run.state) for run in runs],
            [run.attempt for run in runs],
            [run.next_event_number for run in runs],
            [run.finish_time for run in runs],
            [run.progress for run in runs],
            [run.result for run in runs],
            [run.error_reason for run in runs],
            [run.error_message for run in runs],
            [self.log_of(run.task_id) for run in runs],
            [run.log_events for run in runs],
        )
        stepped = [run for run in runs if run.has_steps]
        if stepped:
            keys = [run.tenant_id for run in stepped], [run.task_id for run in stepped]
            await connection.execute(_FORGET_STEPS, *keys)
            await connection.execute(_FORGET_APPENDED, *keys)
        dependants = [run for run in runs if run.blocked_by is not None]
        if dependants:
            ids = [run.task_id for run in dependants]
            await connection.execute(_FORGET_DEPENDENCIES, [run.tenant_id for run in dependants], ids)


def _parts(records: Sequence[bytes]) -> list[list[bytes]]:
    """The records in parts of about _ROW_BYTES, in order."""
    parts: list[list[bytes]] = [[]]
    size = 0
    for record in records:
        if size and size + len(record) > _ROW_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(record)
        size += len(record)
    return parts
