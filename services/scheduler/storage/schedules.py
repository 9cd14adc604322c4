"""Schedules of one tenant, under its row security."""
# ruff: noqa: S608 - the names in the statements are ours, the values are arguments

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import asyncpg

from services.common.db.clock import DatabaseClock
from services.common.db.driver import Driver
from services.common.errors import DomainError
from services.scheduler.domain.errors import (
    EtagMismatch,
    ScheduleExists,
    ScheduleNotFound,
    TooManySchedules,
)
from services.scheduler.domain.payload_errors import PayloadNotFound
from services.scheduler.domain.schedule import MissedRunPolicy, OverlapPolicy, Schedule
from services.scheduler.domain.task import NewTask, Task
from services.scheduler.domain.wake import Wake
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.create_batch import create_tasks
from services.scheduler.storage.decided_queues import DecidedQueues
from services.scheduler.storage.payload_uses import lock_payloads
from services.scheduler.storage.schedule_runs import fill_queues, of_this_call
from services.scheduler.storage.waking import Waker

_NAMES = (
    "tenant_id", "schedule_id", "cron", "task", "created_by", "time_zone", "overlap_policy", "missed_run_policy",
    "catch_up_window", "jitter", "paused", "note", "start_time", "end_time", "uid", "version", "create_time", "update_time",
    "next_time", "wake_time", "buffered_time", "last_run_time", "last_task_id", "run_count", "skipped_count", "last_error",
    "active_task_ids", "context_payload",
)  # fmt: skip
COLUMNS = ", ".join(_NAMES)
_ALL = (*_NAMES, "context")
# Until the end of the transaction: two that create at once would both be the last that may.
_ALONE = "SELECT pg_advisory_xact_lock(hashtext('guildmesh.scheduler.schedules'), hashtext($1))"
# What is more than one too many need not be counted.
_NUMBER = "SELECT count(*) FROM (SELECT FROM schedules WHERE tenant_id = $1 LIMIT $2::bigint + 1) s"
_INSERT = f"""
INSERT INTO schedules ({", ".join(_ALL)}) VALUES ({", ".join(f"${place}" for place in range(1, len(_ALL) + 1))})
ON CONFLICT DO NOTHING RETURNING true
"""
_GET = f"SELECT {COLUMNS}, context FROM schedules WHERE tenant_id = $1 AND schedule_id = $2"
_LIST = f"""
SELECT {COLUMNS} FROM schedules WHERE tenant_id = $1 AND schedule_id > $2 ORDER BY schedule_id LIMIT $3
"""
# The clock is read above the lock: whoever held it has used an earlier time.
_LOCK = f"""
WITH locked AS MATERIALIZED (
  SELECT {COLUMNS}, context FROM schedules WHERE tenant_id = $1 AND schedule_id = $2 FOR UPDATE
)
SELECT *, clock_timestamp() AS now FROM locked
"""
_UPDATE = f"""
UPDATE schedules SET {", ".join(f"{name} = ${place}" for place, name in enumerate(_ALL, 1))}
WHERE tenant_id = $1 AND schedule_id = $2
"""
_DELETE = "DELETE FROM schedules WHERE tenant_id = $1 AND schedule_id = $2"


class Schedules:
    """Reads and changes schedules for their tenant."""

    def __init__(
        self, database: Driver, waker: Waker, lease: timedelta, retention_days: int, decided: DecidedQueues, most: int
    ) -> None:
        """A tenant has at most `most` schedules; the three before are what tasks are given, as by `Batches` and `Queues`."""
        self._database = database
        self._waker = waker
        self._lease = lease
        self._retention_days = retention_days
        self._decided = decided
        self._most = most
        self._clock = DatabaseClock()

    async def create(self, schedule: Schedule) -> Schedule:
        """Keeps a new schedule, whose next run is by the database's time.

        Raises:
            ScheduleExists, TooManySchedules, PayloadNotFound.
        """
        async with self._database.tenant(schedule.tenant_id) as connection:
            await connection.execute(_ALONE, schedule.tenant_id)
            await _lock_payload(connection, schedule)
            now = await connection.fetchval("SELECT clock_timestamp()")
            schedule.create_time = schedule.update_time = now
            schedule.plan(now)
            if await connection.fetchval(_INSERT, *_values(schedule)) is None:
                raise ScheduleExists(schedule.schedule_id)
            if await connection.fetchval(_NUMBER, schedule.tenant_id, self._most) > self._most:
                raise TooManySchedules(self._most)
        return schedule

    async def get(self, tenant_id: str, schedule_id: str) -> Schedule | None:
        """The schedule, or None."""
        async with self._database.tenant(tenant_id) as connection:
            row = await connection.fetchrow(_GET, tenant_id, schedule_id)
        return None if row is None else schedule_of(row, row["context"])

    async def list(self, tenant_id: str, after: str, limit: int) -> Sequence[Schedule]:
        """At most `limit` schedules whose ids come after `after`, in their order, without the context of their tasks."""
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.fetch(_LIST, tenant_id, after, limit)
        return [schedule_of(row) for row in rows]

    async def change(self, tenant_id: str, schedule_id: str, change: Callable[[Schedule, datetime], None]) -> Schedule:
        """Applies a change while nobody else changes the schedule.

        Raises:
            ScheduleNotFound, PayloadNotFound, and what the change raises.
        """
        async with self._database.tenant(tenant_id) as connection:
            schedule, now = await _locked(connection, tenant_id, schedule_id)
            before = schedule.context_payload
            change(schedule, now)
            if schedule.context_payload != before:
                await _lock_payload(connection, schedule)
            await connection.execute(_UPDATE, *_values(schedule))
        return schedule

    async def delete(self, tenant_id: str, schedule_id: str, etag: str) -> None:
        """Deletes it; raises ScheduleNotFound, or EtagMismatch unless the etag is empty or its own."""
        async with self._database.tenant(tenant_id) as connection:
            schedule, _ = await _locked(connection, tenant_id, schedule_id)
            if etag not in ("", schedule.etag):
                raise EtagMismatch("schedule", schedule_id=schedule_id)
            await connection.execute(_DELETE, tenant_id, schedule_id)

    async def start(
        self, tenant_id: str, schedule_id: str, runs: Callable[[Schedule, datetime], Sequence[NewTask]]
    ) -> Sequence[Task]:
        """Starts the runs that are given for the schedule and the database's time; all in one transaction, or none."""
        tasks, wake = await self._start(tenant_id, schedule_id, runs)
        self._waker.wake(wake)
        return tasks

    async def _start(
        self, tenant_id: str, schedule_id: str, runs: Callable[[Schedule, datetime], Sequence[NewTask]]
    ) -> tuple[Sequence[Task], Wake]:
        async with self._database.tenant(tenant_id) as connection:
            schedule, now = await _locked(connection, tenant_id, schedule_id)
            new = list(runs(schedule, now))
            log = ChangeLog.of(self._waker, tenant_id)
            if not new:
                return [], log.wake
            for problem in await fill_queues(connection, new, self._retention_days):
                if problem is not None:
                    raise problem
            answers = await create_tasks(connection, self._clock, log, new, self._lease, self._decided)
            tasks = []
            for answer in answers:
                if isinstance(answer, DomainError):
                    raise answer
                tasks.append(answer)
            schedule.started(of_this_call(new, answers), now)
            await connection.execute(_UPDATE, *_values(schedule))
        return tasks, log.wake


def schedule_of(row: asyncpg.Record, context: bytes | None = None) -> Schedule:
    """The schedule in a row that has COLUMNS."""
    fields = {name: row[name] for name in _NAMES}
    fields["overlap_policy"] = OverlapPolicy(fields["overlap_policy"])
    fields["missed_run_policy"] = MissedRunPolicy(fields["missed_run_policy"])
    fields["uid"] = str(fields["uid"])
    for name in ("last_task_id", "context_payload"):
        fields[name] = None if fields[name] is None else str(fields[name])
    fields["active_task_ids"] = tuple(map(str, fields["active_task_ids"]))
    return Schedule(**fields, context=context)


async def _locked(connection: asyncpg.Connection, tenant_id: str, schedule_id: str) -> tuple[Schedule, datetime]:
    row = await connection.fetchrow(_LOCK, tenant_id, schedule_id)
    if row is None:
        raise ScheduleNotFound(schedule_id)
    return schedule_of(row, row["context"]), row["now"]


async def _lock_payload(connection: asyncpg.Connection, schedule: Schedule) -> None:
    """Keeps the payload that a schedule begins to use until the commit; after that the sweep sees who uses it."""
    if schedule.context_payload is None:
        return
    key = schedule.tenant_id, schedule.context_payload
    if key not in await lock_payloads(connection, [key]):
        raise PayloadNotFound(schedule.context_payload)


def _values(schedule: Schedule) -> list[object]:
    return [getattr(schedule, name) for name in _ALL]
