"""Creates many tasks in one transaction: task, run, first event, outbox row and request id each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

import asyncpg

from services.common.errors import DomainError
from services.scheduler.domain.errors import ParentTaskEnded, RequestIdReused, StaleAttempt, TaskNotFound
from services.scheduler.domain.events import Created
from services.scheduler.domain.run import Run
from services.scheduler.domain.shards import shard_of
from services.scheduler.domain.task import NewTask, State, Task
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.tasks import TASK_COLUMNS, created_task_of

# In the order of the keys, so that two batches with the same request ids wait for each other instead of deadlocking.
_CLAIM_REQUESTS = """
INSERT INTO task_requests (tenant_id, request_id, task_id, payload_hash, create_time)
SELECT tenant_id, request_id, task_id, payload_hash, clock_timestamp()
FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[]) AS r (tenant_id, request_id, task_id, payload_hash)
ORDER BY tenant_id, request_id
ON CONFLICT DO NOTHING
RETURNING tenant_id, request_id
"""
_READ_REQUESTS = f"""
SELECT q.request_id, q.payload_hash, {TASK_COLUMNS}
FROM task_requests q JOIN tasks t ON t.tenant_id = q.tenant_id AND t.task_id = q.task_id
WHERE (q.tenant_id, q.request_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
"""  # noqa: S608 - constants only
_LOCK_PARENTS = """
SELECT tenant_id, task_id, state, attempt, has_children FROM task_runs
WHERE (task_id, tenant_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))
ORDER BY task_id FOR NO KEY UPDATE
"""
_MARK_PARENTS = """
UPDATE task_runs SET has_children = true
WHERE (task_id, tenant_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))
"""
_INSERT = """
WITH kept AS (
  INSERT INTO tasks (tenant_id, task_id, queue, kind, description, context, priority, timeout_ms, max_attempts,
    parent_task_id, labels, created_by, traceparent, create_time)
  SELECT *, $14::timestamptz FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bytea[],
    $7::smallint[], $8::int[], $9::smallint[], $10::uuid[], $11::text[], $12::text[], $13::text[])
)
INSERT INTO task_runs (tenant_id, task_id, queue, kind, priority, timeout_ms, max_attempts, parent_task_id, traceparent,
  available_at, shard, queue_priority, state, next_event_number)
SELECT c.tenant_id, c.task_id, c.queue, c.kind, c.priority, c.timeout_ms, c.max_attempts, c.parent_task_id,
  c.traceparent, $14, c.shard, c.queue_priority, 1, 2
FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $7::smallint[], $8::int[], $9::smallint[], $10::uuid[],
  $13::text[], $15::smallint[], $16::smallint[])
  WITH ORDINALITY AS c (tenant_id, task_id, queue, kind, priority, timeout_ms, max_attempts, parent_task_id, traceparent,
    shard, queue_priority, line)
ORDER BY c.line
"""

Answer = Task | DomainError


async def create_tasks(connection: asyncpg.Connection, log: ChangeLog, items: Sequence[NewTask]) -> list[Answer]:
    """Creates the tasks in the caller's transaction; gives each its answer, in order."""
    answers: list[Answer | None] = [None] * len(items)
    await _answer_repeats(connection, items, answers)
    await _check_parents(connection, items, answers)
    twins = await _claim_requests(connection, items, answers)
    new = [place for place, answer in enumerate(answers) if answer is None and place not in twins]
    if new:
        now: datetime = await connection.fetchval("SELECT clock_timestamp()")
        for place in new:
            item = items[place]
            log.add(_run_of(item, now), Created(item.description, item.priority, item.labels), item.created_by, now)
            answers[place] = _task_of(item, now)
        await _insert(connection, [items[place] for place in new], now)
        await log.write(connection, created=True)
    for place, first in twins.items():
        if answers[place] is None and (answer := answers[first]) is not None:
            answers[place] = _same(items[place], items[first].payload_hash(), answer)
    return [answer for answer in answers if answer is not None]


def _same(item: NewTask, payload_hash: bytes, answer: Answer) -> Answer:
    return answer if item.payload_hash() == payload_hash else RequestIdReused(item.request_id)


async def _answer_repeats(connection: asyncpg.Connection, items: Sequence[NewTask], answers: list[Answer | None]) -> None:
    """Answers repeats of subtasks first: a repeat is answered even when the parent has ended since."""
    places = [p for p, item in enumerate(items) if item.request_id and item.parent_task_id]
    await _read_requests(connection, items, places, answers)


async def _read_requests(
    connection: asyncpg.Connection, items: Sequence[NewTask], places: Sequence[int], answers: list[Answer | None]
) -> None:
    if not places:
        return
    rows = await connection.fetch(_READ_REQUESTS, [items[p].tenant_id for p in places], [items[p].request_id for p in places])
    kept = {(row["tenant_id"], row["request_id"]): row for row in rows}
    for place in places:
        item = items[place]
        row = kept.get((item.tenant_id, item.request_id))
        if row is not None:
            answers[place] = _same(item, row["payload_hash"], created_task_of(row))


async def _check_parents(connection: asyncpg.Connection, items: Sequence[NewTask], answers: list[Answer | None]) -> None:
    places = [p for p, item in enumerate(items) if item.parent_task_id and answers[p] is None]
    if not places:
        return
    keys = sorted({(str(items[p].parent_task_id), items[p].tenant_id) for p in places})
    rows = await connection.fetch(_LOCK_PARENTS, [key[0] for key in keys], [key[1] for key in keys])
    parents = {(str(row["task_id"]), row["tenant_id"]): row for row in rows}
    unmarked = set()
    for place in places:
        item = items[place]
        parent_id = str(item.parent_task_id)
        parent = parents.get((parent_id, item.tenant_id))
        if parent is None:
            answers[place] = TaskNotFound(parent_id)
        elif item.parent_attempt and (parent["attempt"], parent["state"]) != (item.parent_attempt, State.RUNNING):
            answers[place] = StaleAttempt(parent_id, item.parent_attempt)
        elif State(parent["state"]).ended:
            answers[place] = ParentTaskEnded(parent_id)
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
    rows = await connection.fetch(
        _CLAIM_REQUESTS,
        [key[0] for key in first],
        [key[1] for key in first],
        [items[place].task_id for place in first.values()],
        [items[place].payload_hash() for place in first.values()],
    )
    won = {(row["tenant_id"], row["request_id"]) for row in rows}
    # The losers read the winner's answer in a statement of their own, whose snapshot has the winner's commit.
    lost = [
        place
        for place, item in enumerate(items)
        if answers[place] is None and (key := (item.tenant_id, item.request_id)) in first and key not in won
    ]
    await _read_requests(connection, items, lost, answers)
    return twins


async def _insert(connection: asyncpg.Connection, items: Sequence[NewTask], now: datetime) -> None:
    await connection.execute(
        _INSERT,
        [item.tenant_id for item in items],
        [item.task_id for item in items],
        [item.queue for item in items],
        [item.kind for item in items],
        [item.description for item in items],
        [item.context for item in items],
        [item.priority for item in items],
        [item.timeout_ms for item in items],
        [item.max_attempts for item in items],
        [item.parent_task_id for item in items],
        [json.dumps(item.labels, ensure_ascii=False) if item.labels else "{}" for item in items],
        [item.created_by for item in items],
        [item.traceparent for item in items],
        now,
        [shard_of(item.task_id) for item in items],
        [item.queue_priority for item in items],
    )


def _run_of(item: NewTask, now: datetime) -> Run:
    return Run(
        tenant_id=item.tenant_id,
        task_id=item.task_id,
        shard=shard_of(item.task_id),
        state=State.PENDING,
        queue=item.queue,
        kind=item.kind,
        priority=item.priority,
        attempt=0,
        max_attempts=item.max_attempts,
        timeout_ms=item.timeout_ms,
        next_event_number=1,
        has_children=False,
        parent_task_id=item.parent_task_id,
        traceparent=item.traceparent,
        available_at=now,
    )


def _task_of(item: NewTask, now: datetime) -> Task:
    return Task(
        task_id=item.task_id,
        tenant_id=item.tenant_id,
        queue=item.queue,
        kind=item.kind,
        description=item.description,
        priority=item.priority,
        timeout_ms=item.timeout_ms,
        max_attempts=item.max_attempts,
        parent_task_id=item.parent_task_id,
        labels=item.labels,
        created_by=item.created_by,
        create_time=now,
        context=item.context,
        traceparent=item.traceparent,
    )
