"""Rows of tasks, and reads for one tenant under its row security."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import asyncpg

from services.common.db.database import Database, raw
from services.scheduler.domain.ports import TaskFilter
from services.scheduler.domain.task import Queue, State, StoredEvent, Task

TASK_COLUMNS = """t.tenant_id, t.task_id, t.queue, t.kind, t.description, t.context, t.priority, t.timeout_ms, t.max_attempts,
  t.parent_task_id, t.labels, t.created_by, t.traceparent, t.create_time"""
_RUN_COLUMNS = """r.state, r.attempt, r.progress, r.error_reason, r.error_message, r.next_event_number, r.start_time,
  r.finish_time"""
GET_TASK = f"""
SELECT {TASK_COLUMNS}, {_RUN_COLUMNS}, r.result
FROM tasks t JOIN task_runs r ON r.task_id = t.task_id AND r.tenant_id = t.tenant_id
WHERE t.tenant_id = $1 AND t.task_id = $2
"""  # noqa: S608 - constants only
_LIST = f"""
SELECT {TASK_COLUMNS.replace("t.context", "NULL::bytea AS context")}, {_RUN_COLUMNS}, NULL::bytea AS result
FROM tasks t JOIN task_runs r ON r.task_id = t.task_id AND r.tenant_id = t.tenant_id
WHERE t.tenant_id = $1
  AND ($2::uuid IS NULL OR t.task_id < $2) AND ($3::smallint IS NULL OR r.state = $3)
  AND ($4::text IS NULL OR t.queue = $4) AND ($5::uuid IS NULL OR t.parent_task_id = $5)
ORDER BY t.task_id DESC LIMIT $6
"""  # noqa: S608 - constants only
_RUN = "SELECT state, next_event_number - 1 FROM task_runs WHERE tenant_id = $1 AND task_id = $2"
_EVENTS = """
SELECT number, type, value FROM task_events WHERE tenant_id = $1 AND task_id = $2 AND number > $3 ORDER BY number LIMIT $4
"""
_QUEUES = "SELECT queue, max(priority) FROM queues GROUP BY queue ORDER BY max(priority) DESC, queue"


class Tasks:
    """Reads for one tenant; the row security of scheduler_api would hide the rest even without the WHERE."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, tenant_id: str, task_id: str) -> Task | None:
        """The task, or None."""
        async with self._database.tenant(tenant_id) as connection:
            row = await (await raw(connection)).fetchrow(GET_TASK, tenant_id, task_id)
        return None if row is None else task_of(row)

    async def list(self, tenant_id: str, wanted: TaskFilter, before: str | None, limit: int) -> Sequence[Task]:
        """At most `limit` tasks with smaller ids than `before`, newest first, without context and result."""
        async with self._database.tenant(tenant_id) as connection:
            rows = await (await raw(connection)).fetch(
                _LIST, tenant_id, before, wanted.state, wanted.queue, wanted.parent_task_id, limit
            )
        return [task_of(row) for row in rows]

    async def events(
        self, tenant_id: str, task_id: str, after: int, limit: int
    ) -> tuple[State | None, int, Sequence[StoredEvent]]:
        """State, newest number and events after `after`; the state is read first, so the events are at least as new."""
        async with self._database.tenant(tenant_id) as connection:
            driver = await raw(connection)
            run = await driver.fetchrow(_RUN, tenant_id, task_id)
            if run is None:
                return None, 0, []
            rows = await driver.fetch(_EVENTS, tenant_id, task_id, after, limit)
        return State(run[0]), run[1], [StoredEvent(row[0], row[1], row[2]) for row in rows]

    async def queues(self, tenant_id: str) -> Sequence[Queue]:
        """The queues of the tenant and of everyone, highest priority first."""
        async with self._database.tenant(tenant_id) as connection:
            rows = await (await raw(connection)).fetch(_QUEUES)
        return [Queue(row[0], row[1]) for row in rows]


def created_task_of(row: asyncpg.Record) -> Task:
    """The task as it was created, from a row with TASK_COLUMNS."""
    return Task(**_created(row))


def task_of(row: asyncpg.Record) -> Task:
    """The task as it is."""
    return Task(
        **_created(row),
        state=State(row["state"]),
        attempt=row["attempt"],
        progress=row["progress"],
        result=row["result"],
        error_reason=row["error_reason"],
        error_message=row["error_message"],
        last_event_number=row["next_event_number"] - 1,
        start_time=row["start_time"],
        finish_time=row["finish_time"],
    )


def _created(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "task_id": str(row["task_id"]),
        "tenant_id": row["tenant_id"],
        "queue": row["queue"],
        "kind": row["kind"],
        "description": row["description"],
        "context": row["context"],
        "priority": row["priority"],
        "timeout_ms": row["timeout_ms"],
        "max_attempts": row["max_attempts"],
        "parent_task_id": None if row["parent_task_id"] is None else str(row["parent_task_id"]),
        "labels": json.loads(row["labels"]),
        "created_by": row["created_by"],
        "traceparent": row["traceparent"],
        "create_time": row["create_time"],
    }
