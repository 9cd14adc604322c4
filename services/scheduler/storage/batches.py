"""Statements over many tasks of any tenants, each one transaction as the engine role.

A deadlock or a serialization failure is retried here; any other error is the caller's, who splits the batch.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import TypeVar

import asyncpg

from services.common.db.clock import DatabaseClock
from services.common.db.engine_role import EngineDriver
from services.common.errors import Aborted, DomainError
from services.common.failpoints import fail_point
from services.scheduler.domain.fence import Fence
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.task import Lease, NewTask, Task
from services.scheduler.domain.told import Told
from services.scheduler.domain.wake import Wake
from services.scheduler.domain.worker import Heartbeat, Refusal, Report
from services.scheduler.storage.append_batch import append_events
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.counts import Counts, count_tasks, sum_up_counts
from services.scheduler.storage.create_batch import create_tasks
from services.scheduler.storage.decided_queues import DecidedQueues
from services.scheduler.storage.dispatch_owners import fenced_transaction
from services.scheduler.storage.heartbeat_batch import renew_leases
from services.scheduler.storage.lease_batch import first_waiting, lease_tasks
from services.scheduler.storage.marks import PositionMark, TimeMark
from services.scheduler.storage.ready_batch import BATCH as READY
from services.scheduler.storage.ready_batch import make_ready
from services.scheduler.storage.report_batch import handle_reports
from services.scheduler.storage.sweep_batch import BATCH as SWEPT
from services.scheduler.storage.sweep_batch import sweep_runs
from services.scheduler.storage.tell_parents import tell_parents
from services.scheduler.storage.waking import Waker

R = TypeVar("R")
_ATTEMPTS = 5
_LOOK_SECONDS, _LOOK_SHARE = 3.0, 100


class Batches:
    """The batches of this process."""

    def __init__(self, database: EngineDriver, waker: Waker, lease: timedelta, decided: DecidedQueues) -> None:
        self._database = database
        self._waker = waker
        self._lease = lease
        self._decided = decided
        self._clock = DatabaseClock()
        self._swept, self._timed, self._waiting = TimeMark(), TimeMark(), PositionMark()
        self._look_at = 0.0
        waker.listen(self._woken)

    async def create(self, tasks: Sequence[NewTask], fence: Fence | None = None) -> Sequence[Task | DomainError]:
        """Creates tasks with their first events; gives each its own answer, in order. See TaskBatches."""
        return await self._commit(
            lambda connection, log: create_tasks(connection, self._clock, log, tasks, self._lease, self._decided),
            "scheduler.create.before_commit",
            "scheduler.create.after_commit",
            by_key=False,
            counted=True,
            fence=fence,
        )

    async def lease(self, demand: Demand, workers: Sequence[str]) -> Sequence[Lease]:
        """Starts at most one waiting task for each entry of `workers`, in order of priority."""
        above = self._waiting.above(time.monotonic())
        return await self._commit(
            lambda connection, log: lease_tasks(connection, log, demand, workers, self._lease, above),
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

    async def append(self, items: Sequence[Told]) -> Sequence[int | Refusal]:
        """Numbers events that other services tell of; gives each its number, or why it has none."""
        return await self._commit(
            lambda connection, log: append_events(connection, log, items),
            "scheduler.append.before_commit",
            "scheduler.append.after_commit",
        )

    async def tell_parents(self) -> int:
        """Makes events of what subtasks have left for their parents; of how many changes, 0 when nothing is left."""
        return await self._commit(
            tell_parents,
            "scheduler.tell_parents.before_commit",
            "scheduler.tell_parents.after_commit",
        )

    async def heartbeat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[str]:
        """Renews leases; gives each "" or the reason why the attempt must stop."""
        return await self._commit(
            lambda connection, _: renew_leases(connection, heartbeats, self._lease),
            "scheduler.heartbeat.before_commit",
            "scheduler.heartbeat.after_commit",
        )

    async def sweep(self) -> int:
        """Handles a batch of overdue tasks, or of what follows from ended ones; the number of them, 0 when there is none."""
        since = self._swept.since(time.monotonic())
        number, settled, looked = await self._commit(
            lambda connection, log: sweep_runs(connection, log, since),
            "scheduler.sweep.before_commit",
            "scheduler.sweep.after_commit",
        )
        if number < SWEPT:
            self._swept.done(looked)
        return number + settled

    async def look_ahead(self) -> None:
        """Sees from where on tasks wait, so that leases begin there; seldom, and the longer it takes the more seldom."""
        begun = time.monotonic()
        if begun < self._look_at:
            return
        self._waiting.begin()
        async with self._database.transaction() as connection:
            first, given = await first_waiting(connection)
        now = time.monotonic()
        self._waiting.seen(first, given, begun)
        self._look_at = now + max(_LOOK_SECONDS, _LOOK_SHARE * (now - begun))

    async def make_ready(self) -> timedelta | None:
        """Makes a batch of SCHEDULED tasks PENDING that are due; how long until the next is, None when there is none."""
        since = self._timed.since(time.monotonic())
        number, looked, left = await self._commit(
            lambda connection, log: make_ready(connection, log, since),
            "scheduler.ready.before_commit",
            "scheduler.ready.after_commit",
        )
        if number < READY:
            self._timed.done(looked)
        return left

    async def count(self) -> Counts:
        """The number of tasks by queue and state."""
        async with self._database.transaction() as connection:
            return await count_tasks(connection)

    async def sum_up_counts(self) -> None:
        """Keeps counting cheap."""
        async with self._database.transaction() as connection:
            await sum_up_counts(connection)

    def _woken(self, wake: Wake) -> None:
        if wake.again is not None:
            self._waiting.back(wake.again)

    async def _commit(
        self,
        work: Callable[[asyncpg.Connection, ChangeLog], Awaitable[R]],
        before: str,
        after: str,
        *,
        by_key: bool = True,
        counted: bool = False,
        fence: Fence | None = None,
    ) -> R:
        """One transaction, between two failpoints."""
        for attempt in range(1, _ATTEMPTS + 1):
            log = ChangeLog.of(self._waker)
            log.wake.counted = counted
            log.decides, log.fenced = self._waker.decides, fence is not None
            try:
                async with self._transaction(fence, by_key=by_key, one_plan=not by_key) as connection:
                    result = await work(connection, log)
                    await fail_point(before, connection.terminate)
            except Aborted:
                if attempt == _ATTEMPTS:
                    raise
                # Full jitter, so that two batches that met do not meet again.
                await asyncio.sleep(random.random() * 0.01 * 2**attempt)  # noqa: S311 - not a secret
                continue
            except Exception:
                if log.decides and log.wake.over:
                    # Whether they have ended is not known, and nobody else tells.
                    self._waker.wake(Wake(decided=log.wake.over, origin=log.origin))
                raise
            await fail_point(after)
            if log:
                self._waker.wake(log.wake)
            return result
        raise AssertionError("unreachable")

    def _transaction(
        self, fence: Fence | None, *, by_key: bool, one_plan: bool
    ) -> AbstractAsyncContextManager[asyncpg.Connection]:
        if fence is None:
            return self._database.transaction(by_key=by_key, one_plan=one_plan)
        return fenced_transaction(self._database, fence, by_key=by_key, one_plan=one_plan)
