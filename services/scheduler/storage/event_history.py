"""The event log of all tenants, of tasks that go on and of those that have ended, in the order of the tasks' ids.

A page is one snapshot of both tables, in which a task is in exactly one of them; since a task never gets another id, one that
moves between two pages is still read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from services.common.db.engine_role import EngineDriver
from services.scheduler.domain.event_content import EventContent
from services.scheduler.storage.event_log import split

NO_TASK = UUID(int=0)
LAST_TASK = UUID(int=(1 << 128) - 1)
_PAGE = 500
_MOST_BYTES = 4 << 20
_FEW = 100
# The ids begin with the milliseconds in which they were made. A page is of a stretch of time, so that of each tenant little more
# is looked at than the page takes; how long the next one is goes by how much there was in the last.
_MILLISECONDS = 80
_SHORTEST = timedelta(milliseconds=10)
_LONGEST = timedelta(days=365_000)

_NOW = "SELECT clock_timestamp()"
# One step along the index for each tenant.
_TENANTS = """
WITH RECURSIVE found AS (
  (SELECT tenant_id FROM finished_tasks ORDER BY tenant_id LIMIT 1)
  UNION ALL
  SELECT n.tenant_id FROM found CROSS JOIN LATERAL (
    SELECT tenant_id FROM finished_tasks WHERE tenant_id > found.tenant_id ORDER BY tenant_id LIMIT 1
  ) n
)
SELECT tenant_id FROM found
"""
# What is not wanted is passed over by whoever reads the page, not by the statement, which might look at all there is to fill it.
_COLUMNS = """task_id, tenant_id, traceparent, CASE WHEN {wanted} THEN log END AS log, log_events,
      next_event_number - 1 AS newest, queue, event_content, event_key_id"""
_ACTIVE = _COLUMNS.format(wanted="($4::text IS NULL OR tenant_id = $4) AND ($5::text IS NULL OR queue = $5)")
_ENDED = _COLUMNS.format(wanted="($5::text IS NULL OR queue = $5) AND ($7::timestamptz IS NULL OR finish_time >= $7)")
_TASKS = f"""
SELECT * FROM (
  (
    SELECT {_ACTIVE} FROM tasks WHERE task_id > $1 AND task_id <= $2 ORDER BY task_id LIMIT $3
  )
  UNION ALL
  SELECT f.* FROM unnest($6::text[]) AS t (tenant_id) CROSS JOIN LATERAL (
    SELECT {_ENDED} FROM finished_tasks
    WHERE tenant_id = t.tenant_id AND task_id > $1 AND task_id <= $2 ORDER BY task_id LIMIT $3
  ) f
) found ORDER BY task_id LIMIT $3
"""  # noqa: S608 - constants only
# The first is always taken.
_MORE = """
SELECT number, value FROM (
  SELECT number, value, sum(octet_length(value)) OVER (ORDER BY number) - octet_length(value) AS bytes_before
  FROM (
    SELECT number, value FROM task_events WHERE tenant_id = $1 AND task_id = $2 AND number > $3 AND number <= $4
    ORDER BY number LIMIT $5
  ) e
) rows WHERE bytes_before < $6 ORDER BY number
"""
_WAITING = "SELECT lane, max(position) FROM outbox GROUP BY lane"
_STILL_WAITING = """
SELECT EXISTS (
  SELECT FROM unnest($1::smallint[], $2::bigint[]) AS w (lane, position)
  JOIN outbox o ON o.lane = w.lane AND o.position <= w.position
)
"""


@dataclass(frozen=True, slots=True)
class TasksWanted:
    """Whose events are read."""

    tenant_id: str | None = None
    queue: str | None = None
    task_id: str | None = None
    ended_after: datetime | None = None
    """of tasks that have ended: only those that did so at this moment or later."""
    created_before: datetime | None = None
    """tasks that were made later need not be read."""


@dataclass(frozen=True, slots=True)
class LoggedTask:
    """A task with its first events."""

    task_id: str
    tenant_id: str
    traceparent: str
    events: Sequence[bytes]
    """guildmesh.events.v1.TaskEvent, serialized: numbers 1, 2, 3 and so on."""
    newest: int
    """how many it has; those that are not among `events` are read by EventHistory.more."""
    queue: str
    event_content: EventContent | None
    """what of its texts goes to Kafka, as its queue said when it was created; None for all."""
    event_key_id: str | None
    """the key that its events are encrypted with."""


class EventHistory:
    """Reads the log page by page."""

    def __init__(self, database: EngineDriver, wanted: TasksWanted) -> None:
        self._database = database
        self._wanted = wanted
        self._tenants: list[str] | None = None
        self._stretch = timedelta(seconds=1)
        self._last = _last_id(wanted)

    async def now(self) -> datetime:
        """What time it is by the clock that events are dated with."""
        async with self._database.transaction() as connection:
            moment: datetime = await connection.fetchval(_NOW)
        return moment

    async def page(self, after: UUID) -> tuple[Sequence[LoggedTask], UUID | None]:
        """The next tasks, and behind which id to go on; None when there are no more."""
        wanted = self._wanted
        if wanted.task_id is not None and after < UUID(wanted.task_id):
            after = UUID(int=UUID(wanted.task_id).int - 1)
        until = min(self._last, _id_at(after, self._stretch))
        async with self._database.transaction() as connection:
            if self._tenants is None:
                self._tenants = await self._all_tenants(connection)
            rows = await connection.fetch(
                _TASKS, after, until, _PAGE, wanted.tenant_id, wanted.queue, self._tenants, wanted.ended_after
            )
        tasks = [_task_of(row) for row in rows if row[3] is not None]
        if len(rows) == _PAGE:
            first, last = rows[0][0].int, rows[-1][0].int
            self._stretch = max(_SHORTEST, timedelta(milliseconds=last - first >> _MILLISECONDS))
            return tasks, UUID(int=last)
        if len(rows) < _FEW:
            self._stretch = min(_LONGEST, self._stretch * 4)
        return tasks, until if until < self._last else None

    async def more(self, task: LoggedTask, after: int) -> Sequence[tuple[int, bytes]]:
        """The next events of a task behind a number, as many as fit into memory, with their numbers."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_MORE, task.tenant_id, task.task_id, after, task.newest, _PAGE, _MOST_BYTES)
        return [(row[0], row[1]) for row in rows]

    async def waiting(self) -> tuple[list[int], list[int]]:
        """The newest row of each lane of the outbox that waits for Kafka now."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_WAITING)
        return [row[0] for row in rows], [row[1] for row in rows]

    async def still_waiting(self, rows: tuple[list[int], list[int]]) -> bool:
        """Whether any that waited then, or before, still does."""
        async with self._database.transaction() as connection:
            found: bool = await connection.fetchval(_STILL_WAITING, *rows)
        return found

    async def _all_tenants(self, connection: asyncpg.Connection) -> list[str]:
        if self._wanted.tenant_id is not None:
            return [self._wanted.tenant_id]
        return [row[0] for row in await connection.fetch(_TENANTS)]


def _task_of(row: asyncpg.Record) -> LoggedTask:
    task_id, tenant_id, traceparent, events, _, newest, queue, content, key_id = row
    content = None if content is None else EventContent(content)
    key_id = None if key_id is None else str(key_id)
    return LoggedTask(str(task_id), tenant_id, traceparent, list(split(events)), newest, queue, content, key_id)


def _last_id(wanted: TasksWanted) -> UUID:
    if wanted.task_id is not None:
        return UUID(wanted.task_id)
    if wanted.created_before is None:
        return LAST_TASK
    # The clock that an id was made by may be ahead of the database's.
    milliseconds = int((wanted.created_before + timedelta(days=1)).timestamp() * 1000)
    return UUID(int=(milliseconds + 1 << _MILLISECONDS) - 1)


def _id_at(after: UUID, stretch: timedelta) -> UUID:
    """The last id of a stretch of time behind an id."""
    milliseconds = int(stretch.total_seconds() * 1000)
    return UUID(int=min(LAST_TASK.int, after.int + (milliseconds << _MILLISECONDS)))
