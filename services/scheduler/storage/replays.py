"""Replays of failed tasks for one tenant, under its row security.

What is known of a replay is written in the transaction that creates its task, under the lock of the dead letter's row: so each is
replayed once, however many ask at once and wherever one of them dies.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import asyncpg

from services.common.db.clock import DatabaseClock
from services.common.db.driver import Driver
from services.common.errors import DomainError
from services.common.failpoints import fail_point
from services.scheduler.domain.dead_letter import Replays, replay_request_id
from services.scheduler.domain.dead_letter_filter import Conditions
from services.scheduler.domain.errors import ReplayNotKept, TaskNotFailed, TaskNotFound
from services.scheduler.domain.ports import MakeReplay
from services.scheduler.domain.task import NewTask, State, Task
from services.scheduler.domain.task_filter import Condition
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.create_batch import create_tasks
from services.scheduler.storage.dead_letters import Wanted, left_of
from services.scheduler.storage.decided_queues import DecidedQueues
from services.scheduler.storage.replay_choice import choose_letters
from services.scheduler.storage.replay_dependencies import ReplayDependencies
from services.scheduler.storage.schedule_runs import fill_queues
from services.scheduler.storage.tasks import GET_TASK, READ_TASKS, task_of
from services.scheduler.storage.waking import Waker

_OPEN = Condition("replayed", "=", 0)
_LOCK = """
SELECT replay_task_id, clock_timestamp() AS now FROM dead_letters WHERE tenant_id = $1 AND task_id = $2 FOR UPDATE
"""
# What a scheduler of a version before has ended has none.
_MAKE = """
INSERT INTO dead_letters (tenant_id, task_id, queue, kind, fail_time, reason, attempts, retention_days)
SELECT tenant_id, task_id, queue, kind, finish_time, COALESCE(error_reason, 'UNKNOWN'), attempt, retention_days
FROM finished_tasks WHERE tenant_id = $1 AND task_id = $2 AND state = 4
ON CONFLICT DO NOTHING
"""
_KEEP = """
UPDATE dead_letters d SET replay_task_id = r.replay_task_id, replay_time = $4
FROM unnest($2::uuid[], $3::uuid[]) AS r (task_id, replay_task_id)
WHERE d.tenant_id = $1 AND d.task_id = r.task_id AND d.task_id = ANY($2)
"""
_NOW = "SELECT clock_timestamp()"


class FailedTasks:
    """Replays failed tasks for their tenant."""

    def __init__(
        self,
        database: Driver,
        waker: Waker,
        lease: timedelta,
        retention_days: int,
        make_replay: MakeReplay,
        decided: DecidedQueues,
    ) -> None:
        """`lease`, `retention_days` and `decided` are what new tasks are given, as by `Batches` and `Queues`."""
        self._decided = decided
        self._database = database
        self._waker = waker
        self._lease = lease
        self._retention_days = retention_days
        self._make_replay = make_replay
        # What fails at once has failed after the call began.
        self._clock = DatabaseClock(fresh_seconds=0)

    async def replay(self, tenant_id: str, task_id: str, subject: str, *, again: bool, request_id: str) -> Task:
        """The task that repeats a failed one; see TaskReplayer."""
        async with self._transaction(tenant_id) as (connection, log):
            row = await connection.fetchrow(_LOCK, tenant_id, task_id)
            task = await _read(connection, tenant_id, task_id)
            if task is None:
                raise TaskNotFound(task_id)
            if task.state is not State.FAILED:
                raise TaskNotFailed(task_id, task.state.status)
            if row is None:
                await connection.execute(_MAKE, tenant_id, task_id)
                row = await connection.fetchrow(_LOCK, tenant_id, task_id)
            if row["replay_task_id"] is not None and not again:
                replay = await _read(connection, tenant_id, str(row["replay_task_id"]))
                if replay is None:
                    raise ReplayNotKept(task_id, str(row["replay_task_id"]))
                return replay
            (await ReplayDependencies.read(connection, tenant_id, [task])).mend(task)
            derived = replay_request_id(task_id, request_id) if again and request_id else ""
            new = self._make_replay(task, row["now"], subject, derived)
            [replay] = await self._create(connection, log, [new])
            await connection.execute(_KEEP, tenant_id, [task_id], [replay.task_id], row["now"])
        return replay

    async def replay_many(
        self, tenant_id: str, queue: str, conditions: Conditions, failed_before: datetime | None, limit: int, subject: str
    ) -> Replays:
        """Replays at most `limit` dead letters that were not; see TaskReplayer."""
        async with self._transaction(tenant_id) as (connection, log):
            begin: datetime = await connection.fetchval(_NOW)
            before = begin if failed_before is None else min(failed_before, begin)
            meant = (*conditions, _OPEN, Condition("fail_time", "<", before))
            task_ids = await choose_letters(connection, tenant_id, queue, meant, limit)
            found = await connection.fetch(READ_TASKS, task_ids, [tenant_id] * len(task_ids))
            tasks = {task.task_id: task for task in map(task_of, found)}
            dependencies = await ReplayDependencies.read(connection, tenant_id, list(tasks.values()))
            new = {}
            for task in (tasks[task_id] for task_id in task_ids if task_id in tasks):
                dependencies.mend(task)
                new[task.task_id] = self._make_replay(task, begin, subject, "")
                dependencies.replayed(task.task_id, new[task.task_id])
            needed = {dependency.task_id for replay in new.values() for dependency in replay.dependencies}
            for replay in new.values():
                replay.has_dependants = replay.task_id in needed
            await self._create(connection, log, list(new.values()))
            pairs = [(task_id, replay.task_id) for task_id, replay in new.items()]
            await connection.execute(_KEEP, tenant_id, list(new), [replay_id for _, replay_id in pairs], begin)
            left = await left_of(connection, Wanted(tenant_id, queue, meant))
        return Replays(pairs, left, before)

    @asynccontextmanager
    async def _transaction(self, tenant_id: str) -> AsyncIterator[tuple[asyncpg.Connection, ChangeLog]]:
        """One transaction, between two failpoints, after which those are woken whom the log of it concerns."""
        log = ChangeLog.of(self._waker, tenant_id)
        async with self._database.tenant(tenant_id) as connection:
            yield connection, log
            await fail_point("scheduler.replay.before_commit", connection.terminate)
        await fail_point("scheduler.replay.after_commit")
        if log:
            self._waker.wake(log.wake)

    async def _create(self, connection: asyncpg.Connection, log: ChangeLog, new: Sequence[NewTask]) -> Sequence[Task]:
        if not new:
            return []
        for problem in await fill_queues(connection, new, self._retention_days):
            if problem is not None:
                raise problem
        tasks = []
        for answer in await create_tasks(connection, self._clock, log, new, self._lease, self._decided):
            if isinstance(answer, DomainError):
                raise answer
            tasks.append(answer)
        return tasks


async def _read(connection: asyncpg.Connection, tenant_id: str, task_id: str) -> Task | None:
    row = await connection.fetchrow(GET_TASK, tenant_id, task_id)
    return None if row is None else task_of(row)
