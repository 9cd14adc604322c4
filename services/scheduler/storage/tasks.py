"""Reads for one tenant, under its row security. A task is in `tasks` until it ends and in `finished_tasks` from then on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import asyncpg
from guildmesh.events.v1.task_event_pb2 import TaskEvent

from services.common.db.driver import Driver
from services.scheduler.domain.ports import Place, TaskPage
from services.scheduler.domain.task import State, StoredEvent, Task, WaitingFor
from services.scheduler.domain.task_filter import Condition, TaskFilter
from services.scheduler.storage.event_log import split
from services.scheduler.storage.listing import list_statement, place_behind, place_of
from services.scheduler.storage.spec_filter import encoded, met

_ACTIVE = """tenant_id, task_id, spec, create_time, {context} AS context, traceparent, state, attempt, progress,
  next_event_number - 1 AS last_event_number, start_time, NULL::timestamptz AS finish_time, NULL::bytea AS result,
  NULL::text AS error_reason, NULL::text AS error_message, CASE WHEN state = 6 THEN available_at END AS next_start_time,
  wait_signal, wait_prompt, CASE WHEN state = 7 THEN available_at END AS wait_expires,
  CASE WHEN state = 8 THEN blocked_by END AS blocked_by"""
_ENDED = """tenant_id, task_id, spec, create_time, {context} AS context, traceparent, state, attempt, progress,
  next_event_number - 1 AS last_event_number, start_time, finish_time, {result} AS result, error_reason, error_message,
  NULL::timestamptz AS next_start_time, NULL::text AS wait_signal, NULL::text AS wait_prompt, NULL::timestamptz AS wait_expires,
  NULL::int AS blocked_by"""


def _either(where: str) -> str:
    """Both tables in one statement, whose one snapshot has a task in exactly one of them."""
    active, ended = _ACTIVE.format(context="context"), _ENDED.format(context="context", result="result")
    return f"SELECT {active} FROM tasks WHERE {where} UNION ALL SELECT {ended} FROM finished_tasks WHERE {where}"  # noqa: S608


LISTED_ACTIVE = _ACTIVE.format(context="NULL::bytea")
LISTED_ENDED = _ENDED.format(context="NULL::bytea", result="NULL::bytea")
GET_TASK = _either("tenant_id = $1 AND task_id = $2")
READ_TASKS = _either("(task_id, tenant_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))")
_SPECS = """
SELECT task_id::text, spec FROM tasks WHERE tenant_id = $1 AND task_id = ANY($2::uuid[])
UNION ALL SELECT task_id::text, spec FROM finished_tasks WHERE tenant_id = $1 AND task_id = ANY($2::uuid[])
"""
_LOG = "state, next_event_number - 1, log, log_events"
_EVENTS = f"""
SELECT {_LOG} FROM tasks WHERE tenant_id = $1 AND task_id = $2
UNION ALL SELECT {_LOG} FROM finished_tasks WHERE tenant_id = $1 AND task_id = $2
"""  # noqa: S608 - constants only
_MORE_EVENTS = """
SELECT value FROM task_events WHERE tenant_id = $1 AND task_id = $2 AND number > $3 ORDER BY number LIMIT $4
"""
_LOGS = """
SELECT task_id::text, log FROM tasks WHERE tenant_id = $1 AND task_id = ANY($2::uuid[])
UNION ALL SELECT task_id::text, log FROM finished_tasks WHERE tenant_id = $1 AND task_id = ANY($2::uuid[])
"""
_LONG_EVENTS = """
SELECT task_id::text, number, value FROM task_events
WHERE tenant_id = $1 AND (task_id, number) IN (SELECT * FROM unnest($2::uuid[], $3::int[]))
"""


class Tasks:
    """Reads for one tenant; the row security of scheduler_api would hide the rest even without the WHERE."""

    def __init__(self, database: Driver) -> None:
        self._database = database

    async def get(self, tenant_id: str, task_id: str) -> Task | None:
        """The task, or None."""
        async with self._database.tenant(tenant_id) as connection:
            row = await connection.fetchrow(GET_TASK, tenant_id, task_id)
        return None if row is None else task_of(row)

    async def list(self, tenant_id: str, wanted: TaskFilter, after: Place | None, limit: int) -> TaskPage:
        """At most `limit` tasks without context and result, from a place on, or from the beginning; see TaskReader."""
        statement = list_statement(tenant_id, wanted, after, limit, LISTED_ACTIVE, LISTED_ENDED)
        if statement is None:
            return TaskPage([], None)
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.fetch(statement.text, *statement.arguments)
        edge, tasks = rows[0]["edge"], [task_of(row) for row in rows if row["task_id"] is not None]
        if len(tasks) > limit:
            last = tasks[limit - 1]
            return TaskPage(_met(tasks[:limit], wanted), place_of(wanted, last.task_id, last.finish_time))
        return TaskPage(_met(tasks, wanted), None if edge is None else place_behind(wanted, edge))

    async def events(
        self, tenant_id: str, task_id: str, after: int, limit: int
    ) -> tuple[State | None, int, Sequence[StoredEvent]]:
        """State, newest number and events after `after`; the state is read first, so the events are at least as new."""
        async with self._database.tenant(tenant_id) as connection:
            row = await connection.fetchrow(_EVENTS, tenant_id, task_id)
            if row is None:
                return None, 0, []
            state, newest, log, inline = row
            values = list(split(log))[after : after + limit] if after < inline else []
            if inline < newest and len(values) < limit:
                more = await connection.fetch(_MORE_EVENTS, tenant_id, task_id, max(after, inline), limit - len(values))
                values += [row[0] for row in more]
        return State(state), newest, [_stored(value) for value in values]

    async def meeting(self, tenant_id: str, task_ids: Collection[str], conditions: Sequence[Condition]) -> Collection[str]:
        """Those of these tasks that meet the conditions; see TaskReader."""
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.fetch(_SPECS, tenant_id, list(task_ids))
        return [task_id for task_id, spec in rows if met(spec, conditions)]

    async def whole(self, tenant_id: str, events: Collection[tuple[str, int]]) -> Mapping[tuple[str, int], bytes]:
        """These events with all of their texts; see TaskReader."""
        found: dict[tuple[str, int], bytes] = {}
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.fetch(_LOGS, tenant_id, list({task_id for task_id, _ in events}))
            logs = {task_id: list(split(log)) for task_id, log in rows}
            long = []
            for task_id, number in events:
                log = logs.get(task_id, [])
                if number <= len(log):
                    found[task_id, number] = log[number - 1]
                elif task_id in logs:
                    long.append((task_id, number))
            if long:
                columns = [task_id for task_id, _ in long], [number for _, number in long]
                for task_id, number, value in await connection.fetch(_LONG_EVENTS, tenant_id, *columns):
                    found[task_id, number] = value
        return found


def _met(tasks: Sequence[Task], wanted: TaskFilter) -> Sequence[Task]:
    """Those whose serialized part says what is looked for in it, and does not merely have the same bytes."""
    conditions = [condition for condition in wanted.conditions if encoded(condition) is not None]
    return [task for task in tasks if met(task.spec, conditions)] if conditions else tasks


def task_of(row: asyncpg.Record) -> Task:
    """The task in a row of one of the statements above."""
    return Task(
        task_id=str(row["task_id"]),
        tenant_id=row["tenant_id"],
        spec=row["spec"],
        create_time=row["create_time"],
        context=row["context"],
        traceparent=row["traceparent"],
        state=State(row["state"]),
        attempt=row["attempt"],
        progress=row["progress"],
        last_event_number=row["last_event_number"],
        start_time=row["start_time"],
        finish_time=row["finish_time"],
        result=row["result"],
        error_reason=row["error_reason"],
        error_message=row["error_message"],
        next_start_time=row["next_start_time"],
        waiting_for=None
        if row["wait_expires"] is None
        else WaitingFor(row["wait_signal"], row["wait_prompt"], row["wait_expires"]),
        blocked_by=row["blocked_by"] or 0,
    )


def _stored(value: bytes) -> StoredEvent:
    event = TaskEvent.FromString(value)
    return StoredEvent(event.number, event.type, value)
