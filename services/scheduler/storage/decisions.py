"""The statements of the replica that decides, each one transaction as the engine role."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from services.common.db.engine_role import EngineDriver
from services.common.failpoints import fail_point
from services.scheduler.domain.decision import Start, ToStart
from services.scheduler.domain.fence import Fence
from services.scheduler.domain.head import Head, LaneKey, Page, Place, Seen
from services.scheduler.domain.limits import QueueKey
from services.scheduler.domain.task import Lease
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.decided_batch import read_started, start_decided
from services.scheduler.storage.dispatch_owners import DispatchOwners, fenced_transaction
from services.scheduler.storage.ready_tasks import look, read_keys, read_lanes, read_pages, read_running
from services.scheduler.storage.waking import Waker


class DecisionStatements:
    """See services.scheduler.domain.decision.Decisions."""

    def __init__(self, database: EngineDriver, owners: DispatchOwners, waker: Waker, lease: timedelta) -> None:
        self._database = database
        self._owners = owners
        self._waker = waker
        self._lease = lease

    async def take_over(self, owner: str) -> int | None:
        """Begins an epoch; None when another is the owner."""
        return await self._owners.take_over(owner)

    async def everything(self, window: int) -> tuple[Sequence[Seen], Sequence[Page]]:
        """All that runs, and the first tasks that wait in each lane."""
        async with self._database.transaction() as connection:
            running = await read_running(connection, self._lease.total_seconds())
            return running, await read_lanes(connection, window)

    async def look(self, task_ids: Sequence[str]) -> Sequence[Seen]:
        """The tasks of these that have not ended."""
        async with self._database.transaction(by_key=True) as connection:
            return await look(connection, task_ids, self._lease.total_seconds())

    async def pages(self, lanes: Sequence[tuple[LaneKey, Place]], window: int) -> Sequence[Page]:
        """The next tasks of lanes, behind a place."""
        async with self._database.transaction() as connection:
            return await read_pages(connection, lanes, window)

    async def of_keys(self, keys: Sequence[tuple[QueueKey, str]], most: int) -> Sequence[Sequence[Head]]:
        """The first tasks that wait for each concurrency key."""
        async with self._database.transaction() as connection:
            return await read_keys(connection, keys, most)

    async def start(self, fence: Fence, starts: Sequence[ToStart]) -> Sequence[Lease]:
        """Starts those that still wait; raises EpochOver or LimitsChanged."""
        log = ChangeLog.of(self._waker)
        await fail_point("scheduler.decide.before_start")
        async with fenced_transaction(self._database, fence, by_key=True) as connection:
            leases = await start_decided(connection, log, starts, self._lease)
            await fail_point("scheduler.decide.before_commit", connection.terminate)
        await fail_point("scheduler.decide.after_commit")
        if log:
            self._waker.wake(log.wake)
        return leases

    async def started(self, starts: Sequence[Start]) -> Sequence[Lease]:
        """Reads tasks that were started and still are."""
        async with self._database.transaction(by_key=True) as connection:
            return await read_started(connection, starts)
