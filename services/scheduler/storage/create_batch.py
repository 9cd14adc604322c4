"""Creates many tasks in one transaction: task, first event, what waits for Kafka, and request id each."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import asyncpg
from guildmesh.scheduler.v1.task_pb2 import Task as TaskMessage

from services.common.db.clock import DatabaseClock
from services.common.errors import ConcurrentChange, DomainError
from services.scheduler.domain.errors import (
    DeadlineTooEarly,
    ParentTaskEnded,
    QueueNotFound,
    RequestIdReused,
    StaleAttempt,
    TaskNotFound,
)
from services.scheduler.domain.events import Created
from services.scheduler.domain.queue import EVERY_TENANT
from services.scheduler.domain.run import Run
from services.scheduler.domain.shards import shards_of
from services.scheduler.domain.task import NewTask, State, Task, Times
from services.scheduler.storage.changelog import ChangeLog, notified, queued
from services.scheduler.storage.chosen_content import choose_contents
from services.scheduler.storage.decided_queues import DecidedQueues
from services.scheduler.storage.payload_uses import lock_contexts, use_contexts
from services.scheduler.storage.tasks import READ_TASKS, task_of
from services.scheduler.storage.upstreams import lock_upstreams

# In the order of the keys, so that two batches with the same request ids wait for each other instead of deadlocking.
CLAIM_REQUESTS = """
INSERT INTO task_requests (tenant_id, request_id, task_id, payload_hash, create_time)
SELECT tenant_id, request_id, task_id, payload_hash, clock_timestamp()
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[]) AS r (tenant_id, request_id, task_id, payload_hash)
ORDER BY tenant_id, request_id
ON CONFLICT DO NOTHING
RETURNING tenant_id, request_id
"""
READ_REQUESTS = """
SELECT request_id, tenant_id, task_id, payload_hash FROM task_requests
WHERE (tenant_id, request_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
"""
# A request id is kept as long as its task, and may be there a little longer: then it is free again.
FORGET_EXPIRED = """
DELETE FROM task_requests r WHERE (tenant_id, request_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.task_id = r.task_id AND t.tenant_id = r.tenant_id)
  AND NOT EXISTS (SELECT FROM finished_tasks f WHERE f.task_id = r.task_id AND f.tenant_id = r.tenant_id)
"""
_LOCK_PARENTS = """
SELECT tenant_id, task_id, state, attempt, has_children FROM tasks
WHERE (task_id, tenant_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))
ORDER BY task_id FOR NO KEY UPDATE
"""
_ENDED_PARENTS = """
SELECT tenant_id, task_id FROM finished_tasks WHERE (tenant_id, task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
"""
_MARK_PARENTS = """
UPDATE tasks SET has_children = true
WHERE (task_id, tenant_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))
"""
# The tasks of a batch have much in common: what is the same for many is sent once, as a profile, and $9 has the number of each
# task's profile in two bytes; $10 has its shard in one, and $5 its priority. Parents and times, which most batches do not have,
# come last.
# The queue of a profile is looked for once: one that was deleted since this process read it, or closed in order to be deleted, is
# NULL, which no task can have.
_INSERT = """
WITH profiles AS MATERIALIZED (
  SELECT p.*, (
    SELECT q.queue FROM queues q WHERE q.queue = p.wanted AND q.tenant_id IN (p.tenant_id, '*')
      AND (q.closed_until IS NULL OR q.closed_until < clock_timestamp()) LIMIT 1
  ) AS queue
  FROM unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $6::int[], $7::smallint[], $8::text[],
      $18::smallint[], $16::text[])
    WITH ORDINALITY AS p (tenant_id, wanted, kind, queue_priority, timeout_ms, max_attempts, traceparent,
      retention_days, worker_id, number)
), made AS (
  INSERT INTO tasks (tenant_id, queue, kind, queue_priority, priority, timeout_ms, max_attempts, traceparent, retention_days,
    task_id, shard, spec, log, log_events, create_time, attempt, next_event_number, worker_id, lease_expires, start_time, context,
    available_at, state, deadline, check_at{columns})
  SELECT p.tenant_id, p.queue, p.kind, p.queue_priority, get_byte($5, c.line::int - 1), p.timeout_ms, p.max_attempts,
    p.traceparent, p.retention_days, c.task_id, get_byte($10, c.line::int - 1), c.spec, c.log, get_byte($15, c.line::int - 1),
    $11, s.attempt, s.attempt + {next}, p.worker_id, s.now + s.lease, s.start_time, c.context, {values}
  FROM unnest($12::uuid[], $13::bytea[], $14::bytea[], $19::bytea[]{arrays})
    WITH ORDINALITY AS c (task_id, spec, log, context{names}, line)
  JOIN profiles p ON p.number = get_byte($9, 2 * c.line::int - 2) * 256 + get_byte($9, 2 * c.line::int - 1) + 1
  JOIN (VALUES
    (false, statement_timestamp(), 1, 0, NULL::int, NULL::interval, NULL::timestamptz),
    (true, statement_timestamp(), 2, 1, 1, $17::interval, $11::timestamptz)
  ) AS s (started, now, state, attempt, running, lease, start_time) ON s.started = (p.worker_id IS NOT NULL)
  ORDER BY c.line
 {returned}), {queued}
SELECT {notified}{positions}
"""
# What waits for one replica to decide has its place by its position.
_RETURNED = "RETURNING task_id::text, position, state = 1 AND queue_tenant IS NOT NULL AS waits"
_POSITIONS = (
    ", ARRAY(SELECT task_id FROM made WHERE waits ORDER BY 1), ARRAY(SELECT position FROM made WHERE waits ORDER BY task_id)"
)
_PLAIN_VALUES = """s.now, {state}, s.now + s.running * p.timeout_ms * interval '1 ms',
    LEAST(s.now + s.lease, s.now + s.running * p.timeout_ms * interval '1 ms')"""
# A task with times is SCHEDULED, or waits, or is some worker's already.
_TIMED_VALUES = """COALESCE(c.start_at, s.now), {state},
    CASE WHEN s.started THEN LEAST(s.now + p.timeout_ms * interval '1 ms', c.end_by) END,
    CASE WHEN s.started THEN LEAST(s.now + s.lease, s.now + p.timeout_ms * interval '1 ms', c.end_by,
      s.now + c.attempt_timeout_ms * interval '1 ms', s.now + c.heartbeat_timeout_ms * interval '1 ms') ELSE c.start_by END,
    CASE WHEN NOT s.started THEN c.start_by END, c.end_by, c.attempt_timeout_ms, c.heartbeat_timeout_ms,
    s.now + s.running * c.attempt_timeout_ms * interval '1 ms', s.now + s.running * c.heartbeat_timeout_ms * interval '1 ms',
    c.retry"""
_TIMES = (
    ("start_at", "timestamptz"),
    ("start_by", "timestamptz"),
    ("end_by", "timestamptz"),
    ("attempt_timeout_ms", "int"),
    ("heartbeat_timeout_ms", "int"),
    ("retry", "text"),
)
# What a task with dependencies has, or one of a graph that others depend on; the others have a NULL for it.
_BLOCKED = (
    ("blocked_by", "int"),
    ("has_dependants", "bool"),
    ("start_timeout_ms", "int"),
    ("first_state", "smallint"),
    ("more_events", "int"),
)


@lru_cache
def _insert_statement(*, parents: bool, timed: bool, blocked: bool, decided: bool, reduced: bool) -> str:
    columns, values, state, following = "", _PLAIN_VALUES, "s.state", "2"
    given: list[tuple[str, str]] = []
    if timed:
        state = "CASE WHEN c.start_at IS NULL THEN s.state ELSE 6 END"
        given += _TIMES
        columns += ", start_by, end_by, attempt_timeout_ms, heartbeat_timeout_ms, attempt_ends, quiet_ends, retry"
        values = _TIMED_VALUES
    if parents:
        given.append(("parent_task_id", "uuid"))
        columns, values = columns + ", parent_task_id", values + ", c.parent_task_id"
    if blocked:
        given += _BLOCKED
        state, following = f"COALESCE(c.first_state, {state})", "2 + c.more_events"
        columns += ", blocked_by, has_dependants, start_timeout_ms"
        values += ", c.blocked_by, c.has_dependants, c.start_timeout_ms"
    if decided:
        given += [("concurrency_key", "text"), ("queue_tenant", "text")]
        columns, values = columns + ", concurrency_key, queue_tenant", values + ", c.concurrency_key, c.queue_tenant"
    if reduced:
        given += [("event_content", "smallint"), ("event_key_id", "uuid")]
        columns, values = columns + ", event_content, event_key_id", values + ", c.event_content, c.event_key_id"
    first = 20 + len(given)
    return _INSERT.format(
        columns=columns,
        values=values.format(state=state),
        next=following,
        arrays="".join(f", ${20 + place}::{type_}[]" for place, (_, type_) in enumerate(given)),
        names="".join(f", {name}" for name, _ in given),
        returned=_RETURNED if decided else "",
        positions=_POSITIONS if decided else "",
        queued=queued(first),
        notified=notified(first),
    )


_LATER = (State.SCHEDULED, State.BLOCKED)
Answer = Task | DomainError
_CLAIMS = 5


async def create_tasks(
    connection: asyncpg.Connection,
    clock: DatabaseClock,
    log: ChangeLog,
    items: Sequence[NewTask],
    lease: timedelta,
    decided: DecidedQueues,
) -> list[Answer]:
    """Creates the tasks in the caller's transaction, those with a worker as started by it; gives each its answer, in order.

    A task that one replica decides on waits, whoever was to start it, unless that was decided: then the transaction is fenced.
    """
    # Within the transaction, which ends soon: so what is created by an old list is there soon, or never.
    await decided.ensure_fresh(connection if log.tenant_id == EVERY_TENANT else None)
    answers: list[Answer | None] = [None] * len(items)
    contexts = await lock_contexts(connection, items, answers)
    await _answer_repeats(connection, items, answers)
    await _check_parents(connection, items, answers)
    upstreams = await lock_upstreams(connection, log, items, answers)
    await choose_contents(connection, log, items, answers)
    twins = await _claim_requests(connection, items, answers)
    new = [place for place, answer in enumerate(answers) if answer is None and place not in twins]
    if new:
        now = await clock.read(connection)
        new = [place for place in new if not _too_late(items[place], now, answers, place)]
    if new:
        made = [items[place] for place in new]
        _ask_who_decides(made, decided)
        runs = []
        for place, item, shard in zip(new, made, shards_of([item.task_id for item in made]), strict=True):
            run = _run_of(item, shard, now)
            later = run.available_at if run.state is State.SCHEDULED else None
            ids = () if upstreams is None else upstreams.block(run, item)
            payload = None if item.context_payload is None else contexts[item.tenant_id, item.context_payload]
            told = Created(item.description, item.priority, item.labels, None if ids else later, ids, payload)
            log.add(run, told, item.created_by, now)
            if upstreams is not None:
                upstreams.go_on(run, log, now)
            if item.worker_id is not None:
                log.add(run, run.start(item.worker_id, now, lease), item.worker_id, now)
            item.run = run
            runs.append(run)
            created = _as_created(item.task_id, item.tenant_id, item.spec, now, item.context, item.traceparent, later)
            answers[place] = created if not item.dependencies else _blocked(created, len(item.dependencies))
        await _insert(connection, made, runs, log, now, lease, blocked=upstreams is not None)
        if contexts:
            await use_contexts(connection, made)
        if upstreams is not None:
            await upstreams.write(connection, log, made, runs, now)
    for place, first in twins.items():
        if answers[place] is None and (answer := answers[first]) is not None:
            answers[place] = _same(items[place], items[first].payload_hash(), answer)
    return [answer for answer in answers if answer is not None]


def _ask_who_decides(items: Sequence[NewTask], decided: DecidedQueues) -> None:
    if decided.empty:
        for item in items:
            if item.queue_tenant is not None:
                item.queue_tenant = item.worker_id = None
        return
    known: dict[tuple[str, str], str | None] = {}
    for item in items:
        key = (item.tenant_id, item.queue)
        if key not in known:
            known[key] = decided.tenant_of(*key)
        if known[key] != item.queue_tenant:
            # Whoever was to start it had not decided by this list.
            item.queue_tenant, item.worker_id = known[key], None


def _too_late(item: NewTask, now: datetime, answers: list[Answer | None], place: int) -> bool:
    """Answers a task that could only fail."""
    end = item.times.end_by(now) if item.times is not None else None
    if end is None or item.times is None or end > (item.times.start_at(now) or now):
        return False
    answers[place] = DeadlineTooEarly()
    return True


def _as_created(
    task_id: str,
    tenant_id: str,
    spec: bytes,
    create_time: datetime,
    context: bytes | None,
    traceparent: str,
    later: datetime | None,
) -> Task:
    task = Task(task_id, tenant_id, spec, create_time, context, traceparent)
    if later is not None:
        task.state, task.next_start_time = State.SCHEDULED, later
    return task


def _blocked(task: Task, dependencies: int) -> Task:
    """A task with dependencies as it was created: before it was seen which have ended already."""
    task.state, task.blocked_by, task.next_start_time = State.BLOCKED, dependencies, None
    return task


def _same(item: NewTask, payload_hash: bytes, answer: Answer) -> Answer:
    return answer if item.payload_hash() == payload_hash else RequestIdReused(item.request_id)


async def _answer_repeats(connection: asyncpg.Connection, items: Sequence[NewTask], answers: list[Answer | None]) -> None:
    """Answers repeats of what needs others first: they are answered even when the parent has ended or a dependency is gone."""
    places = [p for p, item in enumerate(items) if item.request_id and (item.parent_task_id or item.dependencies)]
    await _read_requests(connection, items, places, answers)


async def _read_requests(
    connection: asyncpg.Connection, items: Sequence[NewTask], places: Sequence[int], answers: list[Answer | None]
) -> None:
    if not places:
        return
    keys = {(items[p].tenant_id, items[p].request_id) for p in places}
    rows = await connection.fetch(READ_REQUESTS, *(list(column) for column in zip(*keys, strict=True)))
    if not rows:
        return
    found = await connection.fetch(READ_TASKS, [row["task_id"] for row in rows], [row["tenant_id"] for row in rows])
    tasks = {row["task_id"]: row for row in found}
    kept = {(row["tenant_id"], row["request_id"]): row for row in rows}
    for place in places:
        item = items[place]
        row = kept.get((item.tenant_id, item.request_id))
        if row is not None and row["task_id"] in tasks:
            answers[place] = _same(item, row["payload_hash"], _created_task_of(tasks[row["task_id"]]))


def _created_task_of(row: asyncpg.Record) -> Task:
    """The task as it was when it was created: a repeat gets the first answer."""
    task = task_of(row)
    spec = TaskMessage.FromString(task.spec)
    times = None
    if spec.HasField("delay"):
        times = Times(delay_ms=spec.delay.ToMilliseconds())
    elif spec.HasField("schedule_time"):
        times = Times(schedule_time=spec.schedule_time.ToDatetime(UTC))
    later = None if times is None else times.start_at(task.create_time)
    created = _as_created(task.task_id, task.tenant_id, task.spec, task.create_time, task.context, task.traceparent, later)
    return _blocked(created, len(spec.dependencies)) if spec.dependencies else created


async def _check_parents(connection: asyncpg.Connection, items: Sequence[NewTask], answers: list[Answer | None]) -> None:
    places = [p for p, item in enumerate(items) if item.parent_task_id and answers[p] is None]
    if not places:
        return
    keys = sorted({(str(items[p].parent_task_id), items[p].tenant_id) for p in places})
    rows = await connection.fetch(_LOCK_PARENTS, [key[0] for key in keys], [key[1] for key in keys])
    parents = {(str(row["task_id"]), row["tenant_id"]): row for row in rows}
    missing = [key for key in keys if key not in parents]
    ended = set()
    if missing:
        rows = await connection.fetch(_ENDED_PARENTS, [key[1] for key in missing], [key[0] for key in missing])
        ended = {(str(row["task_id"]), row["tenant_id"]) for row in rows}
    unmarked = set()
    for place in places:
        item = items[place]
        parent_id = str(item.parent_task_id)
        parent = parents.get((parent_id, item.tenant_id))
        if (parent_id, item.tenant_id) in ended:
            stale = item.parent_attempt > 0
            answers[place] = StaleAttempt(parent_id, item.parent_attempt) if stale else ParentTaskEnded(parent_id)
        elif parent is None:
            answers[place] = TaskNotFound(parent_id)
        elif item.parent_attempt and (parent["attempt"], parent["state"]) != (item.parent_attempt, State.RUNNING):
            answers[place] = StaleAttempt(parent_id, item.parent_attempt)
        elif not parent["has_children"]:
            unmarked.add((parent_id, item.tenant_id))
    if unmarked:
        await connection.execute(_MARK_PARENTS, [key[0] for key in unmarked], [key[1] for key in unmarked])


async def _claim_requests(
    connection: asyncpg.Connection, items: Sequence[NewTask], answers: list[Answer | None]
) -> dict[int, int]:
    """Claims the request ids; gives the places of later items of this batch with the place of the first with the same id."""
    first: dict[tuple[str, str], int] = {}
    twins: dict[int, int] = {}
    for place, item in enumerate(items):
        if item.request_id and answers[place] is None:
            known = first.setdefault((item.tenant_id, item.request_id), place)
            if known != place:
                twins[place] = known
    if not first:
        return twins
    claims = dict(first)
    for attempt in range(_CLAIMS):
        if attempt:
            await connection.execute(FORGET_EXPIRED, [key[0] for key in claims], [key[1] for key in claims])
        rows = await connection.fetch(
            CLAIM_REQUESTS,
            [key[0] for key in claims],
            [key[1] for key in claims],
            [items[place].task_id for place in claims.values()],
            [items[place].payload_hash() for place in claims.values()],
        )
        for row in rows:
            del claims[row["tenant_id"], row["request_id"]]
        # The losers read the winner's answer in a statement of their own, whose snapshot has the winner's commit.
        lost = [
            place
            for place, item in enumerate(items)
            if answers[place] is None and item.request_id and (item.tenant_id, item.request_id) in claims
        ]
        await _read_requests(connection, items, lost, answers)
        claims = {key: place for key, place in claims.items() if answers[place] is None}
        if not claims:
            return twins
    raise ConcurrentChange


async def _insert(
    connection: asyncpg.Connection,
    items: Sequence[NewTask],
    runs: Sequence[Run],
    log: ChangeLog,
    now: datetime,
    lease: timedelta,
    *,
    blocked: bool,
) -> None:
    profiles: dict[tuple[object, ...], int] = {}
    numbers = [
        profiles.setdefault(
            (
                i.tenant_id, i.queue, i.kind, i.queue_priority, i.timeout_ms, i.max_attempts, i.traceparent, i.retention_days,
                i.worker_id,
            ),
            len(profiles),
        )
        for i in items
    ]  # fmt: skip
    *columns, retention_days, worker_ids = zip(*profiles, strict=True)
    arguments: list[object] = [
        *columns[:4],
        _priorities(items),
        *columns[4:],
        struct.pack(f">{len(numbers)}H", *numbers),
        bytes(run.shard for run in runs),
        now,
        [item.task_id for item in items],
        [item.spec for item in items],
        [log.log_of(item.task_id) for item in items],
        bytes(run.log_events for run in runs),
        worker_ids,
        lease,
        retention_days,
        [item.context for item in items],
    ]
    timed = any(item.times is not None for item in items)
    if timed:
        arguments += [
            [run.available_at if run.state in _LATER else None for run in runs],
            *([getattr(run, name) for run in runs] for name, _ in _TIMES[1:]),
        ]
    parents = any(item.parent_task_id is not None for item in items)
    if parents:
        arguments.append([item.parent_task_id for item in items])
    if blocked:
        arguments += [
            *([getattr(run, name) for run in runs] for name, _ in _BLOCKED[:3]),
            [int(run.state) if run.blocked_by is not None else None for run in runs],
            [run.next_event_number - 2 if run.blocked_by is not None else 0 for run in runs],
        ]
    decided = any(item.queue_tenant is not None or item.concurrency_key is not None for item in items)
    if decided:
        arguments += [[item.concurrency_key for item in items], [item.queue_tenant for item in items]]
    reduced = any(run.event_content is not None for run in runs)
    if reduced:
        arguments += [[run.event_content for run in runs], [run.event_key_id for run in runs]]
    statement = _insert_statement(parents=parents, timed=timed, blocked=blocked, decided=decided, reduced=reduced)
    await log.read_keys(connection)
    try:
        _, *waiting = await connection.fetchrow(statement, *arguments, *log.queued())
    except asyncpg.NotNullViolationError as error:
        # In a batch with others, who is to blame is found by halving it.
        if error.column_name == "queue" and len({(item.tenant_id, item.queue) for item in items}) == 1:
            raise QueueNotFound(items[0].queue, ()) from error
        raise
    if waiting:
        positions = dict(zip(*waiting, strict=True))
        for run in runs:
            run.position = positions.get(run.task_id, 0)
    await log.write_long_events(connection)
    await log.tell_others(connection)


def _priorities(items: Sequence[NewTask]) -> bytes:
    try:
        return bytes(item.priority for item in items)
    except ValueError as error:
        # As the column would say of what it cannot hold.
        raise asyncpg.DataError("a priority is not within 0 to 255") from error


def _run_of(item: NewTask, shard: int, now: datetime) -> Run:
    run = Run(
        item.tenant_id, item.task_id, shard, State.PENDING, item.queue, item.kind, item.priority, 0, item.max_attempts,
        item.timeout_ms, 1, False, item.parent_task_id, item.traceparent, now,
    )  # fmt: skip
    run.queue_tenant = item.queue_tenant
    run.create_time = now
    if item.event_content is not None:
        run.event_content, run.event_key_id = item.event_content, item.event_key_id
    times = item.times
    if times is not None:
        start_at = times.start_at(now)
        if start_at is not None:
            run.state, run.available_at = State.SCHEDULED, start_at
        run.start_by, run.end_by, run.retry = times.start_by(now), times.end_by(now), times.retry
        run.attempt_timeout_ms, run.heartbeat_timeout_ms = times.attempt_timeout_ms, times.heartbeat_timeout_ms
    return run
