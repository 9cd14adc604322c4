"""What other services tell of tasks, many events in one transaction, each once by its source and its id there.

The ids of what was appended are kept for as long as the task has not ended, and go with its steps. Of a task that has ended the
events themselves say what is among them: that is looked up only for what is told once more.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
from guildmesh.events.v1.task_event_pb2 import TaskEvent

from services.common.ids import is_id
from services.scheduler.domain.run import Run
from services.scheduler.domain.told import Told
from services.scheduler.domain.worker import Refusal
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.event_log import split
from services.scheduler.storage.runs import lock_runs

_KNOWN = """
SELECT task_id::text, source, source_id, number FROM appended_events
WHERE (tenant_id, task_id, source, source_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[]))
  AND tenant_id = ANY($1) AND task_id = ANY($2)
"""
_KEEP = """
INSERT INTO appended_events (tenant_id, task_id, source, source_id, number)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::int[])
"""
_ENDED = """
SELECT tenant_id, task_id::text, log FROM finished_tasks
WHERE (tenant_id, task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[])) AND tenant_id = ANY($1) AND task_id = ANY($2)
"""
# The id stands in an event as it is: only those that have it are read.
_LONG_EVENTS = """
SELECT e.value FROM unnest($1::text[], $2::uuid[], $3::text[]) AS c (tenant_id, task_id, source_id)
CROSS JOIN LATERAL (
  SELECT value FROM task_events t WHERE t.tenant_id = c.tenant_id AND t.task_id = c.task_id
    AND position(convert_to(c.source_id, 'UTF8') IN t.value) > 0
) e
"""
_Key = tuple[str, str, str]
"""task, source, id in the source."""


async def append_events(connection: asyncpg.Connection, log: ChangeLog, items: Sequence[Told]) -> list[int | Refusal]:
    """Numbers the events in the caller's transaction; gives each its number, or why it has none."""
    runs, now = await lock_runs(connection, {item.task_id for item in items if is_id(item.task_id)})
    known = await _known(connection, [item for item in items if item.task_id in runs])
    late = [item for item in items if not _is_of(item, runs.get(item.task_id))]
    ended, numbers = await _look_in_ended(connection, late) if late else (set(), {})
    answers: list[int | Refusal] = []
    kept: list[tuple[str, str, str, str, int]] = []
    for item in items:
        key, run = _key(item), runs.get(item.task_id)
        if run is None or not _is_of(item, run):
            there = (item.tenant_id, item.task_id) in ended
            answers.append(numbers[key] if there and key in numbers else _gone(item, there))
            continue
        if key not in known:
            refusal = _refusal(item, run, known)
            if refusal is not None:
                answers.append(refusal)
                continue
            known[key] = log.add(run, item.change, item.actor, now)
            # They are forgotten with the steps.
            run.has_steps = True
            kept.append((item.tenant_id, *key, known[key]))
        answers.append(known[key])
    if kept:
        await connection.execute(_KEEP, *(list(column) for column in zip(*kept, strict=True)))
    await log.write(connection)
    return answers


def _refusal(item: Told, run: Run, known: dict[_Key, int]) -> Refusal | None:
    if item.attempt > run.attempt:
        return Refusal("INVALID_ARGUMENT", f"The task has had {run.attempt} attempts, not {item.attempt}.")
    if item.follows:
        if (item.task_id, item.change.source, item.follows) in known:
            return None
        return Refusal("STALE_ATTEMPT", f"The event {item.follows!r} that it follows is not in the task's log.")
    if item.attempt < run.attempt:
        return Refusal("STALE_ATTEMPT", f"Attempt {item.attempt} of the task is over; the newest is {run.attempt}.")
    return None


def _gone(item: Told, ended: bool) -> Refusal:
    if ended:
        return Refusal("TASK_ENDED", "The task has ended, and its log with it.")
    return Refusal("TASK_NOT_FOUND", f"No task {item.task_id!r}: the id is wrong, or the task has left.")


def _is_of(item: Told, run: Run | None) -> bool:
    return run is not None and run.tenant_id == item.tenant_id


def _key(item: Told) -> _Key:
    return item.task_id, item.change.source, item.change.source_id


async def _known(connection: asyncpg.Connection, items: Sequence[Told]) -> dict[_Key, int]:
    """The numbers of those of these events, and of those that they follow, that are there already."""
    names = {(item.tenant_id, item.task_id, item.change.source, name) for item in items for name in _names(item)}
    if not names:
        return {}
    rows = await connection.fetch(_KNOWN, *(list(column) for column in zip(*sorted(names), strict=True)))
    return {(row["task_id"], row["source"], row["source_id"]): row["number"] for row in rows}


def _names(item: Told) -> list[str]:
    return [item.change.source_id, item.follows] if item.follows else [item.change.source_id]


async def _look_in_ended(connection: asyncpg.Connection, items: Sequence[Told]) -> tuple[set[tuple[str, str]], dict[_Key, int]]:
    """Which tasks of these events have ended, and the numbers of the events that are in their logs."""
    named = [item for item in items if is_id(item.task_id)]
    tenants, ids = [item.tenant_id for item in named], [item.task_id for item in named]
    rows = await connection.fetch(_ENDED, tenants, ids)
    if not rows:
        return set(), {}
    ended = {(row["tenant_id"], row["task_id"]) for row in rows}
    values = [value for row in rows for value in split(row["log"])]
    long = await connection.fetch(_LONG_EVENTS, tenants, ids, [item.change.source_id for item in named])
    numbers = {}
    for value in (*values, *(row["value"] for row in long)):
        event = TaskEvent.FromString(value)
        if event.source:
            numbers[event.task_id, event.source, event.source_id] = event.number
    return ended, numbers
