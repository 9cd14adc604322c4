"""Gathers the changes of one transaction and writes them as one statement: runs, events, outbox, and at most one NOTIFY."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from services.scheduler.domain.events import Change
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import State
from services.scheduler.domain.wake import CHANNEL, Wake, bucket_of, encode
from services.scheduler.storage.event_codec import encode_event, encode_headers, encode_snapshot

_WRITE_RUNS = """
changed AS (
  UPDATE task_runs r SET
    state = c.state, attempt = c.attempt, next_event_number = c.next_event_number, available_at = c.available_at,
    worker_id = c.worker_id, lease_expires = c.lease_expires, start_time = c.start_time, deadline = c.deadline,
    finish_time = c.finish_time, progress = c.progress, result = c.result, error_reason = c.error_reason,
    error_message = c.error_message
  FROM unnest($7::text[], $8::uuid[], $9::smallint[], $10::int[], $11::int[], $12::timestamptz[], $13::text[],
    $14::timestamptz[], $15::timestamptz[], $16::timestamptz[], $17::timestamptz[], $18::real[], $19::bytea[],
    $20::text[], $21::text[])
    AS c (tenant_id, task_id, state, attempt, next_event_number, available_at, worker_id, lease_expires, start_time,
      deadline, finish_time, progress, result, error_reason, error_message)
  WHERE r.task_id = c.task_id AND r.tenant_id = c.tenant_id
),
"""
_WRITE_EVENTS = """
events AS (
  INSERT INTO task_events (tenant_id, task_id, number, type, value, headers)
  SELECT * FROM unnest($1::text[], $2::uuid[], $3::int[], $4::text[], $5::bytea[], $6::text[])
),
"""
# The order of the arrays is the order of the positions, and a task's events are in order of their numbers.
_WRITE_OUTBOX = """
queued AS (
  INSERT INTO outbox (shard, tenant_id, task_id, number, snapshot)
  SELECT o.shard, o.tenant_id, o.task_id, o.number, o.snapshot
  FROM unnest({shards}::smallint[], $1::text[], $2::uuid[], $3::int[], {snapshots}::bytea[])
    WITH ORDINALITY AS o (shard, tenant_id, task_id, number, snapshot, line)
  ORDER BY o.line
)
SELECT pg_notify({channel}, {payload})
"""


def _write_sql(first: str, count: int) -> str:
    names = {name: f"${count + place}" for place, name in enumerate(("shards", "snapshots", "channel", "payload"), 1)}
    return "WITH " + first + _WRITE_EVENTS + _WRITE_OUTBOX.format(**names)


_UPDATE = _write_sql(_WRITE_RUNS, 21)
_INSERT = _write_sql("", 6)


@dataclass(slots=True)
class ChangeLog:
    """The changes of one transaction, in the order they were made."""

    origin: str
    wake: Wake = field(init=False)
    _events: list[tuple[str, str, int, str, bytes, str, int, bytes]] = field(default_factory=list)
    _runs: dict[str, Run] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wake = Wake(origin=self.origin)

    def add(self, run: Run, change: Change, actor: str, now: datetime) -> int:
        """Numbers an event of a run whose row is locked by this transaction; gives the number."""
        number = run.next_event_number
        run.next_event_number = number + 1
        value = encode_event(run, number, change, actor, now)
        headers = encode_headers(run, number, change, now)
        snapshot = encode_snapshot(run, number, now)
        self._events.append((run.tenant_id, run.task_id, number, change.type, value, headers, run.shard, snapshot))
        self._runs[run.task_id] = run
        self.wake.shards |= 1 << run.shard
        if self.wake.buckets is not None:
            self.wake.buckets.add(bucket_of(run.task_id))
        if self.wake.kinds is not None and run.state is State.PENDING:
            self.wake.kinds.add(run.kind)
        return number

    def stop(self, run: Run, attempt: int, reason: str) -> None:
        """Has the worker of a run told to stop."""
        if self.wake.stops is not None:
            self.wake.stops.append((run.task_id, attempt, reason))

    def __bool__(self) -> bool:
        return bool(self._events)

    async def write(self, connection: asyncpg.Connection, *, created: bool = False) -> None:
        """Writes everything; `created` runs are inserted by the caller's own statement."""
        if not self._events:
            return
        columns = list(zip(*self._events, strict=True))
        arguments = [list(column) for column in columns[:6]]
        if not created:
            runs = list(self._runs.values())
            arguments += [
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
                [run.finish_time for run in runs],
                [run.progress for run in runs],
                [run.result for run in runs],
                [run.error_reason for run in runs],
                [run.error_message for run in runs],
            ]
        await connection.execute(
            _INSERT if created else _UPDATE, *arguments, list(columns[6]), list(columns[7]), CHANNEL, encode(self.wake)
        )
