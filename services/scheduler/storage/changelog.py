"""Gathers the changes of one transaction and writes them in few statements: tasks, events, outbox, and at most one NOTIFY."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from services.scheduler.domain.events import Change
from services.scheduler.domain.run import Run
from services.scheduler.domain.shards import lane_of
from services.scheduler.domain.task import State, StoredEvent
from services.scheduler.domain.wake import CHANNEL, Wake, bucket_of, encode
from services.scheduler.storage.event_codec import encode_event, encode_snapshot
from services.scheduler.storage.event_log import INLINE_BYTES, frame
from services.scheduler.storage.outbox_codec import pack

_UPDATE = """
UPDATE tasks t SET
  state = c.state, attempt = c.attempt, next_event_number = c.next_event_number, available_at = c.available_at,
  worker_id = c.worker_id, lease_expires = c.lease_expires, start_time = c.start_time, deadline = c.deadline,
  progress = c.progress, has_steps = c.has_steps, log = t.log || c.log, log_events = c.log_events
FROM unnest($1::text[], $2::uuid[], $3::smallint[], $4::int[], $5::int[], $6::timestamptz[], $7::text[], $8::timestamptz[],
  $9::timestamptz[], $10::timestamptz[], $11::real[], $12::bool[], $13::bytea[], $14::int[])
  AS c (tenant_id, task_id, state, attempt, next_event_number, available_at, worker_id, lease_expires, start_time, deadline,
    progress, has_steps, log, log_events)
WHERE t.task_id = c.task_id AND t.tenant_id = c.tenant_id AND t.task_id = ANY($2)
"""
# What has ended moves, within the server, to where nothing changes any more.
_FINISH = """
WITH gone AS (
  DELETE FROM tasks t
  USING unnest($1::text[], $2::uuid[], $3::smallint[], $4::int[], $5::int[], $6::timestamptz[], $7::real[], $8::bytea[],
    $9::text[], $10::text[], $11::bytea[], $12::int[])
    AS c (tenant_id, task_id, state, attempt, next_event_number, finish_time, progress, result, error_reason, error_message,
      log, log_events)
  WHERE t.task_id = c.task_id AND t.tenant_id = c.tenant_id AND t.task_id = ANY($2)
  RETURNING t.tenant_id, t.task_id, t.create_time, t.start_time, c.finish_time, c.state, c.attempt, c.next_event_number,
    c.log_events, c.progress, t.parent_task_id, t.queue, t.kind, t.traceparent, c.error_reason, c.error_message, t.spec,
    t.context, t.log || c.log, c.result, t.priority, t.retention_days
)
INSERT INTO finished_tasks (tenant_id, task_id, create_time, start_time, finish_time, state, attempt, next_event_number,
  log_events, progress, parent_task_id, queue, kind, traceparent, error_reason, error_message, spec, context, log, result,
  priority, retention_days)
SELECT * FROM gone
"""
_FORGET_STEPS = """
DELETE FROM task_steps WHERE (tenant_id, task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
  AND tenant_id = ANY($1) AND task_id = ANY($2)
"""
_EVENTS = """
INSERT INTO task_events (tenant_id, task_id, number, value) SELECT * FROM unnest($1::text[], $2::uuid[], $3::int[], $4::bytea[])
"""
_OUTBOX = """
WITH queued AS (
  INSERT INTO outbox (lane, tenant_id, events, payload)
  SELECT o.lane, $3, o.events, o.payload
  FROM unnest($1::smallint[], $2::int[], $4::bytea[]) WITH ORDINALITY AS o (lane, events, payload, line) ORDER BY o.line
), counted AS (
  INSERT INTO task_count_changes (queue, state, change) SELECT * FROM unnest($7::text[], $8::smallint[], $9::int[])
)
SELECT pg_notify($5, $6)
"""
# A row is what the relay reads at least; small ones keep it within its memory.
_ROW_BYTES = 1 << 20


@dataclass(slots=True)
class Event:
    """An event in all the forms in which it is written."""

    number: int
    type: str
    value: bytes
    framed: bytes
    """as it lies in a task's row."""
    record: bytes
    """as it lies in the outbox."""


def event_of(run: Run, change: Change, actor: str, now: datetime) -> Event:
    """The next event of a run."""
    number = run.next_event_number
    value = encode_event(run, number, change, actor, now)
    record = pack(run.shard, run.task_id, run.traceparent, value, encode_snapshot(run, number, now))
    return Event(number, change.type, value, frame(value), record)


@dataclass(slots=True)
class ChangeLog:
    """The changes of one transaction, in the order they were made."""

    origin: str
    watched: Container[tuple[str, str]] = ()
    """tasks (tenant and id) whose events the wake is to carry."""
    tenant_id: str = "*"
    """the tenant that the transaction is held to; * for none."""
    wake: Wake = field(init=False)
    _runs: dict[str, Run] = field(default_factory=dict)
    _written: set[str] = field(default_factory=set)
    _logs: dict[str, list[bytes]] = field(default_factory=dict)
    _events: list[tuple[str, str, int, bytes]] = field(default_factory=list)
    _outbox: dict[int, list[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wake = Wake(origin=self.origin)

    def add(self, run: Run, change: Change, actor: str, now: datetime) -> int:
        """Numbers an event of a run whose row is locked (or made) by this transaction; gives the number."""
        event = event_of(run, change, actor, now)
        number = event.number
        run.next_event_number = number + 1
        if run.log_events == number - 1 and run.log_bytes + len(event.framed) <= INLINE_BYTES:
            run.log_events = number
            run.log_bytes += len(event.framed)
            self._logs.setdefault(run.task_id, []).append(event.framed)
        else:
            self._events.append((run.tenant_id, run.task_id, number, event.value))
        self._keep(run, event)
        return number

    def add_written(self, run: Run, event: Event) -> None:
        """Adds an event that lies in the task's row already, as the row's last change of this transaction."""
        run.next_event_number = event.number + 1
        self._written.add(run.task_id)
        self._keep(run, event)

    def _keep(self, run: Run, event: Event) -> None:
        task_id = run.task_id
        self._outbox.setdefault(lane_of(run.shard), []).append(event.record)
        self._runs[task_id] = run
        wake = self.wake
        wake.shards |= 1 << run.shard
        if wake.buckets is not None:
            wake.buckets.add(bucket_of(task_id))
        if (key := (run.tenant_id, task_id)) in self.watched:
            wake.events.append((key, StoredEvent(event.number, event.type, event.value)))

    def stop(self, run: Run, attempt: int, reason: str) -> None:
        """Has the worker of a run told to stop."""
        if self.wake.stops is not None:
            self.wake.stops.append((run.task_id, attempt, reason))

    def log_of(self, task_id: str) -> bytes:
        """The new events that belong into the task's own row."""
        return b"".join(self._logs.get(task_id, ()))

    def __bool__(self) -> bool:
        return bool(self._runs)

    async def write(self, connection: asyncpg.Connection, *, written: bool = False) -> None:
        """Writes everything; with `written` the tasks' own rows are the caller's to write."""
        if not self._runs:
            return
        if not written:
            runs = [run for run in self._runs.values() if run.task_id not in self._written]
            await self._update(connection, [run for run in runs if not run.state.ended])
            await self._finish(connection, [run for run in runs if run.state.ended])
        if self._events:
            await connection.execute(_EVENTS, *(list(column) for column in zip(*self._events, strict=True)))
        rows = [(lane, len(part), b"".join(part)) for lane, records in self._outbox.items() for part in _parts(records)]
        lanes, events, payloads = zip(*rows, strict=True)
        self.wake.kinds = {run.kind for run in self._runs.values() if run.state is State.PENDING}
        queues, states, changes = self._count()
        await connection.execute(
            _OUTBOX, lanes, events, self.tenant_id, payloads, CHANNEL, encode(self.wake), queues, states, changes
        )

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
        )

    async def _finish(self, connection: asyncpg.Connection, runs: Sequence[Run]) -> None:
        if not runs:
            return
        await connection.execute(
            _FINISH,
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
            await connection.execute(_FORGET_STEPS, [run.tenant_id for run in stepped], [run.task_id for run in stepped])


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
