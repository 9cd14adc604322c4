"""Statements over many tasks of any tenants, each one transaction as the engine role.

A deadlock or a serialization failure is retried here; any other error is the caller's, who splits the batch.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import asyncpg

from services.common.db.clock import DatabaseClock
from services.common.db.engine_role import EngineDriver
from services.common.errors import Aborted, DomainError
from services.common.failpoints import fail_point
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.task import Lease, NewTask, Task
from services.scheduler.domain.worker import Heartbeat, Refusal, Report
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.counts import Counts, count_tasks, sum_up_counts
from services.scheduler.storage.create_batch import create_tasks
from services.scheduler.storage.heartbeat_batch import renew_leases
from services.scheduler.storage.lease_batch import lease_tasks
from services.scheduler.storage.ready_batch import make_ready
from services.scheduler.storage.report_batch import handle_reports
from services.scheduler.storage.sweep_batch import sweep_runs
from services.scheduler.storage.waking import Waker

R = TypeVar("R")
_ATTEMPTS = 5


class Batches:
    """The batches of this process."""

    def __init__(self, database: EngineDriver, waker: Waker, lease: timedelta) -> None:
        self._database = database
        self._waker = waker
        self._lease = lease
        self._clock = DatabaseClock()

    async def create(self, tasks: Sequence[NewTask]) -> Sequence[Task | DomainError]:
        """Creates tasks with their first events; gives each its own answer, in order."""
        return await self._commit(
            lambda connection, log: create_tasks(connection, self._clock, log, tasks, self._lease),
            "scheduler.create.before_commit",
            "scheduler.create.after_commit",
            by_key=False,
            counted=True,
        )

    async def lease(self, demand: Demand, workers: Sequence[str]) -> Sequence[Lease]:
        """Starts at most one waiting task for each entry of `workers`, in order of priority."""
        return await self._commit(
            lambda connection, log: lease_tasks(connection, log, demand, workers, self._lease),
            "scheduler.lease.before_commit",
            "scheduler.lease.after_commit",
        )

    async def report(self, reports: Sequence[Report]) -> Sequence[Refusal | None]:
        """Handles reports in order; gives each its refusal, or None when it is durable."""
        return await self._commit(
            lambda connection, log: handle_reports(connection, self._clock, log, reports),
            "scheduler.report.before_commit",
            "scheduler.report.after_commit",
        )

    async def heartbeat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[str]:
        """Renews leases; gives each "" or the reason why the attempt must stop."""
        return await self._commit(
            lambda connection, _: renew_leases(connection, heartbeats, self._lease),
            "scheduler.heartbeat.before_commit",
            "scheduler.heartbeat.after_commit",
        )

    async def sweep(self) -> int:
        """Handles a batch of overdue tasks; the number of them, 0 when there is none."""
        return await self._commit(sweep_runs, "scheduler.sweep.before_commit", "scheduler.sweep.after_commit")

    async def make_ready(self) -> timedelta | None:
        """Makes a batch of SCHEDULED tasks PENDING that are due; how long until the next is, None when there is none."""
        return await self._commit(make_ready, "scheduler.ready.before_commit", "scheduler.ready.after_commit")

    async def count(self) -> Counts:
        """The number of tasks by queue and state."""
        async with self._database.transaction() as connection:
            return await count_tasks(connection)

    async def sum_up_counts(self) -> None:
        """Keeps counting cheap."""
        async with self._database.transaction() as connection:
            await sum_up_counts(connection)

    async def _commit(
        self,
        work: Callable[[asyncpg.Connection, ChangeLog], Awaitable[R]],
        before: str,
        after: str,
        *,
        by_key: bool = True,
        counted: bool = False,
    ) -> R:
        """One transaction, between two failpoints."""
        for attempt in range(1, _ATTEMPTS + 1):
            log = ChangeLog(self._waker.origin, self._waker.watched)
            log.wake.counted = counted
            try:
                async with self._database.transaction(by_key=by_key) as connection:
                    result = await work(connection, log)
                    await fail_point(before, connection.terminate)
            except Aborted:
                if attempt == _ATTEMPTS:
                    raise
                # Full jitter, so that two batches that met do not meet again.
                await asyncio.sleep(random.random() * 0.01 * 2**attempt)  # noqa: S311 - not a secret
                continue
            await fail_point(after)
            if log:
                self._waker.wake(log.wake)
            return result
        raise AssertionError("unreachable")
