"""Who gets which task: the demand of all streams of this process, gathered into few lease statements.

A task that is created while a worker of this process waits for one like it, and nothing like it waits in the database, is that
worker's at once, in the transaction that creates it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import structlog

from services.common.errors import DomainError
from services.scheduler.domain.ports import Demand, TaskBatches
from services.scheduler.domain.task import Lease, NewTask
from services.scheduler.domain.wake import Wake
from services.scheduler.usecases.hub import Hub

log = structlog.get_logger(__name__)

MOST_LEASES = 500


class Taker(Protocol):
    """A worker's stream, as the dispatcher sees it."""

    worker_id: str
    credits: int

    def take(self, leases: Sequence[Lease]) -> None:
        """Gets leases, for which credits were claimed."""

    def release(self, credits: int) -> None:
        """Gets back credits that were claimed and not spent."""


class Dispatcher:
    """One lane for each distinct demand; a lane leases as long as it finds tasks, then waits to be woken."""

    def __init__(self, batches: TaskBatches, hub: Hub, poll_seconds: float) -> None:
        """Looks again after `poll_seconds` without a wake-up, which also finds what waited out its back-off."""
        self._batches = batches
        self._poll_seconds = poll_seconds
        self._lanes: dict[Demand, _Lane] = {}
        self._by_kind: dict[str, list[_Lane]] = {}
        self._ending: set[_Lane] = set()
        hub.listen(self._woken)

    def join(self, demand: Demand, taker: Taker) -> None:
        """Adds a stream to the lane of its demand."""
        lane = self._lanes.get(demand)
        if lane is None:
            lane = self._lanes[demand] = _Lane(demand, self._batches, self._poll_seconds)
            for kind in demand.kinds:
                self._by_kind.setdefault(kind, []).append(lane)
        lane.takers.append(taker)
        lane.wanted.set()

    def leave(self, demand: Demand, taker: Taker) -> None:
        """Takes a stream out of its lane."""
        lane = self._lanes.get(demand)
        if lane is None:
            return
        lane.takers.remove(taker)
        if not lane.takers:
            del self._lanes[demand]
            for kind in demand.kinds:
                self._by_kind[kind].remove(lane)
                if not self._by_kind[kind]:
                    del self._by_kind[kind]
            lane.stop()
            self._ending.add(lane)
            lane.task.add_done_callback(lambda _: self._ending.discard(lane))

    def more(self, demand: Demand) -> None:
        """Says that a stream of this demand has new credits."""
        lane = self._lanes.get(demand)
        if lane is not None:
            lane.wanted.set()

    def claim(self, tasks: Sequence[NewTask]) -> dict[int, Taker]:
        """Claims a credit for each new task that a waiting worker can start at once, the most urgent first; by place."""
        if not any(task.kind in self._by_kind for task in tasks):
            return {}
        claims: dict[int, Taker] = {}
        for place in sorted(range(len(tasks)), key=lambda place: (-tasks[place].queue_priority, -tasks[place].priority)):
            task = tasks[place]
            for lane in self._by_kind.get(task.kind, ()):
                taker = lane.claim_for(task)
                if taker is not None:
                    claims[place] = taker
                    break
        return claims

    async def close(self) -> None:
        """Stops leasing, after the statements that are under way."""
        for lane in self._lanes.values():
            lane.stop()
        await asyncio.gather(*(lane.task for lane in self._ending | set(self._lanes.values())), return_exceptions=True)

    def _woken(self, wake: Wake) -> None:
        for demand, lane in self._lanes.items():
            if wake.kinds is None or not demand.kinds.isdisjoint(wake.kinds):
                lane.empty = False
                lane.wanted.set()


class _Lane:
    def __init__(self, demand: Demand, batches: TaskBatches, poll_seconds: float) -> None:
        self.takers: list[Taker] = []
        self.wanted = asyncio.Event()
        self.empty = False
        """whether nothing waits in the database, as far as this process has heard."""
        self._turn = 0
        self._demand = demand
        self._batches = batches
        self._poll_seconds = poll_seconds
        self._stopped = False
        self.task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Ends the lane after the statement that is under way: what it leases is still handed on."""
        self._stopped = True
        self.wanted.set()

    def claim_for(self, task: NewTask) -> Taker | None:
        """A stream with a credit, now spent, that runs such a task; None also when others like it wait for their turn."""
        demand = self._demand
        if not self.empty or self._stopped:
            return None
        if demand.tenant_id not in (None, task.tenant_id) or (demand.queues and task.queue not in demand.queues):
            return None
        for _ in self.takers:
            self._turn = (self._turn + 1) % len(self.takers)
            taker = self.takers[self._turn]
            if taker.credits > 0:
                taker.credits -= 1
                return taker
        return None

    async def _run(self) -> None:
        pause = 0.1
        while not self._stopped:
            self.wanted.clear()
            slots = self._slots()
            found = 0
            if slots:
                try:
                    found = await self._lease(slots)
                    pause = 0.1
                    # What was told meanwhile the statement may not have seen.
                    self.empty = found < len(slots) and not self.wanted.is_set()
                except DomainError as error:
                    log.warning("lease_failed", error=str(error), retry_in=pause)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 2.0)
                    continue
                except Exception:
                    log.exception("lease_failed", retry_in=2)
                    await asyncio.sleep(2)
                    continue
            if not slots or found < len(slots):
                await self._wait()

    async def _wait(self) -> None:
        try:
            await asyncio.wait_for(self.wanted.wait(), self._poll_seconds * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret
        except TimeoutError:
            return

    def _slots(self) -> list[Taker]:
        """Claims credits: an entry for each, the streams in turn, so that tasks spread over the workers."""
        left = {taker: taker.credits for taker in self.takers if taker.credits > 0}
        slots: list[Taker] = []
        while left and len(slots) < MOST_LEASES:
            slots += list(left)
            left = {taker: number - 1 for taker, number in left.items() if number > 1}
        del slots[MOST_LEASES:]
        for taker in slots:
            taker.credits -= 1
        return slots

    async def _lease(self, slots: Sequence[Taker]) -> int:
        leases: Sequence[Lease] = ()
        try:
            leases = await self._batches.lease(self._demand, [taker.worker_id for taker in slots])
        finally:
            for taker, credits in Counter(slots[len(leases) :]).items():
                taker.release(credits)
        given: dict[Taker, list[Lease]] = {}
        for taker, lease in zip(slots, leases, strict=False):
            given.setdefault(taker, []).append(lease)
        for taker, mine in given.items():
            taker.take(mine)
        return len(leases)
