"""Who gets which task: the demand of all streams of this process, gathered into few lease statements.

A task that is created while a worker of this process has a credit that no waiting task has a claim to is that worker's at once,
in the transaction that creates it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from services.common.errors import DomainError
from services.scheduler.domain.ports import Demand, TaskBatches, WhoDecides
from services.scheduler.domain.task import Lease, NewTask
from services.scheduler.domain.wake import Wake
from services.scheduler.usecases.decide_starts import MOST_STARTS, DecideStarts
from services.scheduler.usecases.hub import Hub
from services.scheduler.usecases.new_starts import NewStarts
from services.scheduler.usecases.offer_slots import SlotOffers, Taker

log = structlog.get_logger(__name__)

MOST_LEASES = 500
MOST_CREDITS = 10_000
"""of one stream."""


class Dispatcher:
    """One lane for each distinct demand; a lane leases as long as it finds tasks, then waits to be woken."""

    def __init__(
        self,
        batches: TaskBatches,
        hub: Hub,
        poll_seconds: float,
        offers: SlotOffers,
        who_decides: WhoDecides,
        decide: DecideStarts,
    ) -> None:
        """Looks again after `poll_seconds` without a wake-up, which also finds what waited out its back-off.

        Of the tasks that one replica decides on it leases none, and offers slots for them as far as they are wanted. Where that
        is this process, `decide` says which of them start in the moment they are created.
        """
        self._batches = batches
        self._decide = decide
        self._offers = offers
        self._who_decides = who_decides
        self._poll_seconds = poll_seconds
        self._lanes: dict[Demand, _Lane] = {}
        self._by_kind: dict[str, list[_Lane]] = {}
        self._ending: set[_Lane] = set()
        hub.listen(self._woken)

    def join(self, demand: Demand, taker: Taker) -> None:
        """Adds a stream to the lane of its demand."""
        lane = self._lanes.get(demand)
        if lane is None:
            lane = self._lanes[demand] = _Lane(demand, self._batches, self._poll_seconds, self._offers)
            self._offers.open(demand, lane.wanted.set)
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
            self._offers.close(demand)
            self._ending.add(lane)
            lane.task.add_done_callback(lambda _: self._ending.discard(lane))

    def more(self, demand: Demand) -> None:
        """Says that a stream of this demand has new credits."""
        lane = self._lanes.get(demand)
        if lane is not None and lane.has_work():
            lane.wanted.set()

    def claim(self, tasks: Sequence[NewTask], *, decided: bool = True) -> Claims:
        """Claims a credit for each new task that a waiting worker can start at once, the most urgent first.

        Without `decided` none that one replica decides on.
        """
        takers: dict[int, Taker] = {}
        starts = NewStarts(self._decide, self._decide.fence if decided else None)
        kept: dict[_Lane, int] = {}
        waiting: Counter[_Lane] = Counter()
        spare: dict[_Lane, int] = {}
        # Most tasks of a batch are for the same lanes.
        lanes_of: dict[tuple[str, str, str], tuple[list[_Lane], str | None]] = {}
        without: set[tuple[str, str, str]] = set()
        for place in _most_urgent_first(tasks):
            task = tasks[place]
            if task.dependencies or (task.times is not None and task.times.may_be_later):
                continue
            key = (task.kind, task.tenant_id, task.queue)
            if key not in lanes_of:
                wanting = [lane for lane in self._by_kind.get(task.kind, ()) if lane.wants(task.tenant_id, task.queue)]
                lanes_of[key] = wanting, self._who_decides.tenant_of(task.tenant_id, task.queue)
            lanes, queue_tenant = lanes_of[key]
            if queue_tenant is not None:
                starts.concern()
            for lane in lanes:
                if lane not in spare:
                    spare[lane] = lane.spare()
                if queue_tenant is not None and spare[lane] > 0:
                    if lane not in kept:
                        kept[lane] = self._kept_for_waiting(lane)
                    if spare[lane] <= kept[lane] or not starts.begin(place, task, queue_tenant):
                        continue
                if spare[lane] > 0:
                    spare[lane] -= 1
                    takers[place] = lane.claim()
                    break
            else:
                if queue_tenant is None:
                    waiting.update(lanes)
                    without.add(key)
        if without:
            self._offers.waits(list(without))
        for lane, number in waiting.items():
            lane.coming += number

        def newcomers() -> list[_Lane]:
            return [
                lane
                for kind, tenant_id, queue in without
                for lane in self._by_kind.get(kind, ())
                if lane.wants(tenant_id, queue) and lane not in lanes_of[kind, tenant_id, queue][0]
            ]

        return Claims(takers, starts, waiting, newcomers)

    def _kept_for_waiting(self, lane: _Lane) -> int:
        """How many of a lane's credits are for tasks that are decided on and wait."""
        startable = self._decide.startable(lane.demand)
        return MOST_CREDITS if startable >= MOST_STARTS else max(0, startable - self._offers.outstanding(lane.demand))

    async def close(self) -> None:
        """Stops leasing, after the statements that are under way."""
        for lane in self._lanes.values():
            lane.stop()
        await asyncio.gather(*(lane.task for lane in self._ending | set(self._lanes.values())), return_exceptions=True)

    def _woken(self, wake: Wake) -> None:
        for demand, lane in self._lanes.items():
            if wake.kinds is None or not demand.kinds.isdisjoint(wake.kinds):
                lane.woken(counted=wake.counted)


def _most_urgent_first(tasks: Sequence[NewTask]) -> Sequence[int]:
    """The places of tasks in the order in which waiting workers are for them."""
    places = range(len(tasks))
    urgencies = [(task.queue_priority, task.priority) for task in tasks]
    if len(set(urgencies)) < 2:
        return places
    return sorted(places, key=lambda place: urgencies[place], reverse=True)


@dataclass(slots=True)
class Claims:
    """What new tasks are promised before they are created."""

    takers: dict[int, Taker]
    """whose credit a task has, by its place."""
    starts: NewStarts
    """those of them that one replica, this one, decides on."""
    _waiting: Counter[_Lane]
    _newcomers: Callable[[], Sequence[_Lane]]
    """lanes that have come since and want what waits: they have not counted it, and a look that they began may not see it."""

    def settle(self, *, created: bool) -> None:
        """Says whether the tasks were created; when that is not known, they may have been."""
        for lane, number in self._waiting.items():
            lane.coming -= number
            if created:
                lane.waiting += number
            else:
                lane.woken(counted=False)
        for lane in self._newcomers():
            lane.woken(counted=False)


class _Lane:
    def __init__(self, demand: Demand, batches: TaskBatches, poll_seconds: float, offers: SlotOffers) -> None:
        self._offers = offers
        self._even = False
        self._priority = 0
        """of the queue of what it leased last; 0 when it does not know."""
        self.takers: list[Taker] = []
        self.wanted = asyncio.Event()
        self.waiting = 0
        """how many tasks of those that this process has created wait in the database, at most."""
        self.coming = 0
        """how many more are being created, to wait there."""
        self._counted = False
        """whether nothing else waits there, as far as this process has heard."""
        self._told = False
        """whether it has heard of something else since the last lease began."""
        self._turn = 0
        self.demand = demand
        self._batches = batches
        self._poll_seconds = poll_seconds
        self._stopped = False
        self.task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Ends the lane after the statement that is under way: what it leases is still handed on."""
        self._stopped = True
        self.wanted.set()

    def woken(self, *, counted: bool) -> None:
        """Hears of waiting tasks, of those that are counted or of others."""
        if not counted:
            self._counted = False
            self._told = True
        self.wanted.set()

    def wants(self, tenant_id: str, queue: str) -> bool:
        """Whether its streams run such a task of their kinds."""
        demand = self.demand
        return demand.tenant_id in (None, tenant_id) and (not demand.queues or queue in demand.queues)

    def has_work(self) -> bool:
        """Whether something may wait for a credit."""
        return self.may_wait() or self._offers.wanted(self.demand) > 0

    def may_wait(self) -> bool:
        """Whether something may wait that it leases."""
        return not self._counted or self.waiting > 0

    def spare(self) -> int:
        """How many credits no waiting task has a claim to."""
        if not self._counted or self._stopped:
            return 0
        return sum(taker.credits for taker in self.takers) - self.waiting - self.coming

    def claim(self) -> Taker:
        """A stream with a credit, now spent; there must be one to spare."""
        while True:
            self._turn = (self._turn + 1) % len(self.takers)
            taker = self.takers[self._turn]
            if taker.credits > 0:
                taker.credits -= 1
                return taker

    async def _run(self) -> None:
        pause = 0.1
        while not self._stopped:
            self.wanted.clear()
            slots = self._offer(self._slots())
            if slots and not self.may_wait():
                # It was woken for tasks that are decided on.
                _give_back(slots)
                slots = []
            found = 0
            if slots:
                before, self._told = self.waiting, False
                try:
                    found = await self._lease(slots)
                    pause = 0.1
                    if found < len(slots):
                        # All that waited when it began has been leased; what was told meanwhile it may not have seen.
                        self.waiting = max(0, self.waiting - before)
                        self._counted = not self._told
                    else:
                        self.waiting = max(0, self.waiting - found)
                except DomainError as error:
                    log.warning("lease_failed", error=str(error), retry_in=pause)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 2.0)
                    continue
                except Exception:
                    log.exception("lease_failed", retry_in=2)
                    await asyncio.sleep(2)
                    continue
            if (not slots or found < len(slots)) and not self._may_offer():
                await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._poll_seconds * random.uniform(0.8, 1.2)):  # noqa: S311 - not a secret
                await self.wanted.wait()
        except TimeoutError:
            # Something may have come of which it has not heard.
            self._counted = False

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

    def _offer(self, slots: list[Taker]) -> list[Taker]:
        """Offers slots to the replica that decides, as far as it wants them; gives the rest.

        While other tasks may wait whose queue has the same priority, half of them.
        """
        wanted = self._offers.wanted(self.demand)
        if not wanted or not slots or self._stopped:
            return slots
        most, priority = len(slots), self._offers.priority(self.demand)
        if not self.may_wait() or priority > self._priority > 0:
            pass
        elif priority < self._priority:
            most = 0
        else:
            # Of an odd number half are more in one turn and fewer in the next.
            most = (most + self._even) // 2
            self._even = not self._even
        most = min(most, wanted)
        if most:
            self._offers.offer(self.demand, slots[:most])
        return slots[most:]

    def _may_offer(self) -> bool:
        """Whether slots are wanted and there, so that there is no need to wait."""
        return not self._stopped and self._offers.wanted(self.demand) > 0 and any(taker.credits > 0 for taker in self.takers)

    async def _lease(self, slots: Sequence[Taker]) -> int:
        leases: Sequence[Lease] = ()
        try:
            leases = await self._batches.lease(self.demand, [taker.worker_id for taker in slots])
        finally:
            _give_back(slots[len(leases) :])
        self._priority = leases[0].queue_priority if leases else 0
        given: dict[Taker, list[Lease]] = {}
        for taker, lease in zip(slots, leases, strict=False):
            given.setdefault(taker, []).append(lease)
        for taker, mine in given.items():
            taker.take(mine)
        return len(leases)


def _give_back(slots: Sequence[Taker]) -> None:
    for taker, credits in Counter(slots).items():
        taker.release(credits)
