"""Starts the runs of schedules that are due: their tasks and what the schedules have left to do are one transaction.

So each time of a schedule has one run at most, and one run unless a policy skips it, however many replicas there are and
whenever one of them dies: what is not committed has not happened, and its rows are free for the next who looks. A turn is
bounded; what is left is for the next one.
"""
# ruff: noqa: S608 - the names in the statements are ours, the values are arguments

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import asyncpg
import structlog
from prometheus_client import Counter, Histogram

from services.common.db.clock import DatabaseClock
from services.common.db.engine_role import EngineDriver
from services.common.errors import DomainError
from services.common.failpoints import fail_point
from services.scheduler.domain.errors import RequestIdReused
from services.scheduler.domain.ports import Firing, MakeTask
from services.scheduler.domain.schedule import Overlap, Schedule, due_runs, overlap
from services.scheduler.domain.task import NewTask, Task
from services.scheduler.storage.cascade import cascade
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.create_batch import create_tasks
from services.scheduler.storage.decided_queues import DecidedQueues
from services.scheduler.storage.runs import cancel_run, lock_runs
from services.scheduler.storage.schedule_runs import fill_queues, of_this_call
from services.scheduler.storage.schedules import COLUMNS, schedule_of
from services.scheduler.storage.waking import Waker

log = structlog.get_logger(__name__)

runs = Counter("guildmesh_schedule_runs", "Runs of schedules, by what became of them: started, skipped, waiting.", ["outcome"])
broken = Counter("guildmesh_schedules_broken", "Schedules that were paused because they cannot run.")
delays = Histogram(
    "guildmesh_schedule_delay_seconds",
    "How long after it was due a run of a schedule has started.",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 300, 3600),
)

SCHEDULES = 250
"""that a turn takes at most."""
TIMES = 2000
"""of cron that a turn goes through at most: some 30 ms."""
TASKS = 250
"""that a turn creates at most, but for those of its last schedule."""
RUNS = 100
"""of one schedule that a turn starts at most."""
BYTES = 16 << 20
"""of contexts that a turn reads for its tasks at most, but for those of its last schedule."""
_ACTOR = "scheduler"
_Key = tuple[str, str]
_ITS_OWN = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
"""what is raised for a value that a table cannot hold."""

_LOCK_DUE = f"""
SELECT {COLUMNS}, COALESCE(octet_length(context), 0) AS weight FROM schedules
WHERE wake_time <= statement_timestamp() ORDER BY wake_time LIMIT $1 FOR UPDATE SKIP LOCKED
"""
_LOCK_FREED = f"""
SELECT {COLUMNS}, COALESCE(octet_length(context), 0) AS weight FROM schedules s
WHERE buffered_time IS NOT NULL AND (wake_time IS NULL OR wake_time > statement_timestamp())
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.task_id = ANY(s.active_task_ids) AND t.tenant_id = s.tenant_id)
ORDER BY buffered_time LIMIT $1 FOR UPDATE OF s SKIP LOCKED
"""
_LOCK_ONE = f"""
SELECT {COLUMNS}, COALESCE(octet_length(context), 0) AS weight FROM schedules
WHERE tenant_id = $1 AND schedule_id = $2 AND NOT paused FOR UPDATE SKIP LOCKED
"""
_NOW = "SELECT clock_timestamp()"
_PAUSE = "SELECT min(wake_time) - clock_timestamp() FROM schedules WHERE wake_time IS NOT NULL"
_UNENDED = "SELECT task_id FROM tasks WHERE task_id = ANY($1::uuid[])"
_CONTEXTS = """
SELECT tenant_id, schedule_id, context FROM schedules
WHERE context IS NOT NULL AND (tenant_id, schedule_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
"""
_MOVE = """
UPDATE schedules s SET
  next_time = c.next_time, wake_time = c.wake_time, buffered_time = c.buffered_time, last_run_time = c.last_run_time,
  last_task_id = c.last_task_id, run_count = c.run_count, skipped_count = c.skipped_count, last_error = c.last_error,
  active_task_ids = string_to_array(c.active_task_ids, ',')::uuid[], paused = c.paused, version = c.version,
  update_time = c.update_time
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[], $7::uuid[],
  $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::bool[], $13::bigint[], $14::timestamptz[])
  AS c (tenant_id, schedule_id, next_time, wake_time, buffered_time, last_run_time, last_task_id, run_count, skipped_count,
    last_error, active_task_ids, paused, version, update_time)
WHERE s.tenant_id = c.tenant_id AND s.schedule_id = c.schedule_id
"""
_MOVED = (
    "tenant_id", "schedule_id", "next_time", "wake_time", "buffered_time", "last_run_time", "last_task_id", "run_count",
    "skipped_count", "last_error", "active_task_ids", "paused", "version", "update_time",
)  # fmt: skip


@dataclass(slots=True)
class _Turn:
    """What is to be done for one schedule."""

    schedule: Schedule
    weight: int
    """bytes of its context."""
    overlap: Overlap = field(default_factory=lambda: Overlap([]))
    skipped: int = 0
    next: datetime | None = None
    """the first time that is not dealt with."""
    tasks: list[NewTask] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    """of the runs that have started, in seconds."""
    problem: str = ""
    """why its tasks cannot be created now."""
    broken: Exception | None = None
    """why it cannot run at all."""

    def stop(self, error: Exception, now: datetime) -> None:
        """Pauses a schedule that cannot run, such as one whose zone is no longer known."""
        self.broken = error
        self.overlap = Overlap([])
        self.tasks = []
        told = error.message if isinstance(error, DomainError) else f"It cannot run ({type(error).__name__}); create it anew."
        self.schedule.stop(told, now)


class DueSchedules:
    """The schedules of all tenants, of which this process takes what is due."""

    def __init__(
        self,
        database: EngineDriver,
        waker: Waker,
        lease: timedelta,
        retention_days: int,
        make_task: MakeTask,
        decided: DecidedQueues,
    ) -> None:
        """`lease`, `retention_days` and `decided` are what new tasks are given, as by `Batches` and `Queues`."""
        self._database = database
        self._waker = waker
        self._lease = lease
        self._retention_days = retention_days
        self._decided = decided
        self._make_task = make_task
        self._clock = DatabaseClock()

    async def fire(self) -> Firing:
        """Starts runs that are due; one schedule that the database refuses does not keep it from the others."""
        taken: list[_Key] = []
        try:
            return await self._fire(taken)
        except DomainError:
            raise
        except Exception as error:
            if not taken:
                raise
            log.warning("schedules_singled_out", schedules=len(taken), error=repr(error))
        return Firing(sum([await self._fire_alone(key) for key in taken]), None)

    async def _fire(self, taken: list[_Key]) -> Firing:
        changes = ChangeLog.of(self._waker)
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_LOCK_DUE, SCHEDULES)
            if len(rows) < SCHEDULES:
                rows += await connection.fetch(_LOCK_FREED, SCHEDULES - len(rows))
            if not rows:
                return Firing(0, await connection.fetchval(_PAUSE))
            taken += [(row["tenant_id"], row["schedule_id"]) for row in rows]
            done = await self._take(connection, changes, [_Turn(schedule_of(row), row["weight"]) for row in rows])
            await fail_point("scheduler.fire.before_commit", connection.terminate)
        await fail_point("scheduler.fire.after_commit")
        self._committed(done, changes)
        return Firing(len(rows), None)

    async def _fire_alone(self, key: _Key) -> bool:
        """A schedule by itself; whether something has become of it. One that has what no row can hold is paused."""
        changes = ChangeLog.of(self._waker)
        try:
            async with self._database.transaction() as connection:
                row = await connection.fetchrow(_LOCK_ONE, *key)
                done = [] if row is None else await self._take(connection, changes, [_Turn(schedule_of(row), row["weight"])])
        except DomainError:
            raise
        except _ITS_OWN as error:
            done = await self._stop(key, error)
        except Exception:
            # Whatever it is, it may be the same for all: nobody's schedule is paused for it.
            log.exception("schedule_failed", tenant=key[0], schedule=key[1])
            return False
        self._committed(done, changes)
        return bool(done)

    async def _stop(self, key: _Key, error: Exception) -> Sequence[_Turn]:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_LOCK_ONE, *key)
            if row is None:
                return []
            turn = _Turn(schedule_of(row), 0)
            turn.stop(error, await connection.fetchval(_NOW))
            await _move(connection, [turn.schedule])
            return [turn]

    def _committed(self, done: Sequence[_Turn], changes: ChangeLog) -> None:
        """Tells what a commit has done; what was rolled back is not told."""
        self._waker.wake(changes.wake)
        for turn in done:
            runs.labels("started").inc(len(turn.delays))
            runs.labels("skipped").inc(turn.skipped)
            runs.labels("waiting").inc(turn.overlap.buffered is not None)
            for delay in turn.delays:
                delays.observe(delay)
            schedule = turn.schedule
            if turn.broken is not None:
                broken.inc()
                log.error(
                    "schedule_paused",
                    tenant=schedule.tenant_id,
                    schedule=schedule.schedule_id,
                    error=schedule.last_error,
                    cause=repr(turn.broken),
                )
            elif turn.problem:
                log.warning("schedule_failed", tenant=schedule.tenant_id, schedule=schedule.schedule_id, error=turn.problem)

    async def _take(self, connection: asyncpg.Connection, changes: ChangeLog, turns: Sequence[_Turn]) -> Sequence[_Turn]:
        """Does in the caller's transaction what is due for locked schedules; gives those that there was room for."""
        now: datetime = await connection.fetchval(_NOW)
        await _forget_ended(connection, turns)
        done = _decide(turns, now)
        await _read_contexts(connection, done)
        self._make_tasks(done, now)
        await self._check_queues(connection, done)
        await _cancel(connection, changes, done)
        await self._create(connection, changes, done, now)
        for turn in done:
            if not turn.schedule.paused:
                turn.schedule.move(turn.next)
        await _move(connection, [turn.schedule for turn in done])
        return done

    def _make_tasks(self, turns: Sequence[_Turn], now: datetime) -> None:
        for turn in turns:
            schedule = turn.schedule
            try:
                for time in turn.overlap.start:
                    request_id = schedule.request_id(time.isoformat())
                    turn.tasks.append(self._make_task(schedule, time, schedule.created_by, request_id))
            except Exception as error:
                turn.stop(error, now)

    async def _check_queues(self, connection: asyncpg.Connection, turns: Sequence[_Turn]) -> None:
        """Leaves a schedule without its queue as it is but for the runs it cannot start: the queue may come back."""
        tasks = [task for turn in turns for task in turn.tasks]
        if not tasks:
            return
        problems = iter(await fill_queues(connection, tasks, self._retention_days))
        for turn in turns:
            found = [problem for problem in [next(problems) for _ in turn.tasks] if problem is not None]
            if found:
                turn.problem = turn.schedule.last_error = found[0].message
                turn.skipped += len(turn.tasks)
                turn.schedule.skipped_count += len(turn.tasks)
                turn.tasks = []

    async def _create(self, connection: asyncpg.Connection, changes: ChangeLog, turns: Sequence[_Turn], now: datetime) -> None:
        tasks = [task for turn in turns for task in turn.tasks]
        if not tasks:
            return
        created = changes.beside()
        answers = iter(await create_tasks(connection, self._clock, created, tasks, self._lease, self._decided))
        changes.wake.add(created.wake)
        for turn in turns:
            if not turn.tasks:
                continue
            mine = [next(answers) for _ in turn.tasks]
            # What is answered by an earlier task has had its run, such as after the row was set back.
            turn.schedule.started(of_this_call(turn.tasks, mine), now)
            for time, task, answer in zip(turn.overlap.start, turn.tasks, mine, strict=True):
                if isinstance(answer, Task) and answer.task_id == task.task_id:
                    turn.delays.append((now - turn.schedule.due(time)).total_seconds())
                elif isinstance(answer, DomainError) and not isinstance(answer, RequestIdReused):
                    turn.problem = turn.schedule.last_error = answer.message
                    turn.skipped += 1
                    turn.schedule.skipped_count += 1


def _decide(turns: Sequence[_Turn], now: datetime) -> list[_Turn]:
    """Decides for each schedule what starts, until the turn is full; gives those that were decided on."""
    done: list[_Turn] = []
    times, tasks, weight = TIMES, TASKS, BYTES
    for turn in turns:
        if times <= 0 or tasks <= 0 or weight <= 0:
            break
        schedule = turn.schedule
        done.append(turn)
        try:
            due = due_runs(schedule, now, times, min(RUNS, max(1, BYTES // max(1, turn.weight))))
        except Exception as error:
            turn.stop(error, now)
            continue
        active = bool(schedule.active_task_ids)
        turn.overlap = overlap(schedule.overlap_policy, due.start, schedule.buffered_time, active=active)
        turn.skipped = due.skipped + turn.overlap.skipped
        turn.next = due.next
        schedule.skipped_count += turn.skipped
        schedule.buffered_time = turn.overlap.buffered
        times -= due.looked_at
        tasks -= len(turn.overlap.start)
        weight -= turn.weight * len(turn.overlap.start)
    return done


async def _forget_ended(connection: asyncpg.Connection, turns: Sequence[_Turn]) -> None:
    """Leaves only tasks in active_task_ids that have not ended."""
    started = [task_id for turn in turns for task_id in turn.schedule.active_task_ids]
    if not started:
        return
    unended = {str(row[0]) for row in await connection.fetch(_UNENDED, started)}
    for turn in turns:
        schedule = turn.schedule
        schedule.active_task_ids = tuple(task_id for task_id in schedule.active_task_ids if task_id in unended)


async def _read_contexts(connection: asyncpg.Connection, turns: Sequence[_Turn]) -> None:
    starting = {(turn.schedule.tenant_id, turn.schedule.schedule_id): turn.schedule for turn in turns if turn.overlap.start}
    if not starting:
        return
    columns = zip(*starting, strict=True)
    for row in await connection.fetch(_CONTEXTS, *(list(column) for column in columns)):
        starting[row["tenant_id"], row["schedule_id"]].context = row["context"]


async def _cancel(connection: asyncpg.Connection, changes: ChangeLog, turns: Sequence[_Turn]) -> None:
    """Cancels the earlier tasks of the schedules whose next run takes their place, with their subtasks."""
    replaced = {
        task_id: turn.schedule
        for turn in turns
        if turn.overlap.cancel and turn.tasks
        for task_id in turn.schedule.active_task_ids
    }
    if not replaced:
        return
    locked, now = await lock_runs(connection, replaced)
    cancelled = changes.beside()
    ended = [run for run in locked.values() if run.tenant_id == replaced[run.task_id].tenant_id]
    for run in ended:
        cause = f"The next run of the schedule {replaced[run.task_id].schedule_id!r} takes its place."
        cancel_run(cancelled, run, cause, _ACTOR, now)
    await cascade(connection, cancelled, ended, locked, "The parent task was cancelled.", _ACTOR, now)
    await cancelled.write(connection)
    changes.wake.add(cancelled.wake)
    for schedule in replaced.values():
        schedule.active_task_ids = ()


async def _move(connection: asyncpg.Connection, schedules: Sequence[Schedule]) -> None:
    columns: list[list[object]] = [[getattr(schedule, name) for schedule in schedules] for name in _MOVED]
    columns[_MOVED.index("active_task_ids")] = [",".join(schedule.active_task_ids) for schedule in schedules]
    await connection.execute(_MOVE, *columns)
