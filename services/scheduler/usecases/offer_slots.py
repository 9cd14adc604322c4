"""Slots of this process's workers for the replica that decides: it says how many it could fill, and so many are kept for it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from services.common.errors import DomainError
from services.scheduler.domain.decision import Answer, Decisions, Link, Message, Start
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.task import Lease

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = 5.0
"""after which a tenant that waits in a queue is told of again."""
_FORGET_SECONDS = 600.0
"""after which another may take its place among those that are."""
_READS = 5


class Taker(Protocol):
    """A worker's stream."""

    worker_id: str
    credits: int

    def take(self, leases: Sequence[Lease]) -> None:
        """Gets leases, for which credits were claimed."""

    def release(self, credits: int) -> None:
        """Gets back credits that were claimed and not spent."""


class SlotOffers:
    """What this process has offered."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        self._link: Link | None = None
        self._numbers: dict[Demand, int] = {}
        self._wake: dict[int, Callable[[], None]] = {}
        self._wanted: dict[int, tuple[int, int]] = {}
        """of each demand how many slots, and the priority of the first queue."""
        self._last = 0
        self._kept: dict[tuple[int, str], deque[Taker]] = {}
        """streams whose credits are kept, by demand and worker."""
        self._outstanding: Counter[int] = Counter()
        self._waiting: dict[tuple[str, str], dict[str, float]] = {}
        """of each queue and kind when tenants were last told of."""
        self._reading: set[asyncio.Task[None]] = set()

    def open(self, demand: Demand, wake: Callable[[], None]) -> None:
        """A demand has come up; `wake` is called when slots of it are wanted, or have come back."""
        self._last += 1
        self._numbers[demand] = self._last
        self._wake[self._last] = wake
        self._tell(Message(opened=[(self._last, demand)]))

    def close(self, demand: Demand) -> None:
        """Nobody has the demand any more."""
        number = self._numbers.pop(demand)
        del self._wake[number]
        self._wanted.pop(number, None)
        self._tell(Message(closed=[number]))

    def wanted(self, demand: Demand) -> int:
        """How many slots should be offered now."""
        if not self._wanted:
            return 0
        number = self._numbers.get(demand, 0)
        return max(0, self._wanted.get(number, (0, 0))[0] - self._outstanding[number])

    def outstanding(self, demand: Demand) -> int:
        """How many slots are kept for whoever decides."""
        return self._outstanding[self._numbers.get(demand, 0)]

    def priority(self, demand: Demand) -> int:
        """The priority of the first queue for which slots are wanted."""
        return self._wanted.get(self._numbers.get(demand, 0), (0, 0))[1]

    def offer(self, demand: Demand, takers: Sequence[Taker]) -> None:
        """Offers a slot of each entry, whose credit was claimed."""
        number, link = self._numbers[demand], self._link
        if link is None:
            self._release(takers)
            return
        for taker in takers:
            self._kept.setdefault((number, taker.worker_id), deque()).append(taker)
        self._outstanding[number] += len(takers)
        workers = Counter(taker.worker_id for taker in takers)
        link.tell(Message(offers=[(number, worker, slots) for worker, slots in workers.items()]))

    def waits(self, tasks: Sequence[tuple[str, str, str]]) -> None:
        """Tasks (kind, tenant, queue) have come to wait that nobody decides on: whoever decides hears of two tenants of each."""
        now, news = time.monotonic(), []
        for kind, tenant_id, queue in tasks:
            told = self._waiting.setdefault((queue, kind), {})
            for old in [name for name, at in told.items() if at < now - _FORGET_SECONDS]:
                del told[old]
            if told[tenant_id] < now - _AGAIN_SECONDS if tenant_id in told else len(told) < 2:
                told[tenant_id] = now
                news.append((tenant_id, queue, kind))
        if news:
            self._tell(Message(waiting=news))

    def connected(self, link: Link) -> None:
        """There is a way to the replica that decides."""
        self._link = link
        opened = [(number, demand) for demand, number in self._numbers.items()]
        waiting = [(tenant, *key) for key, told in self._waiting.items() for tenant in told]
        if opened or waiting:
            link.tell(Message(opened=opened, waiting=waiting))

    def lost(self, link: Link) -> None:
        """The way is gone: what was offered is this process's again. What was started for it goes back when its lease ends."""
        if self._link is not link:
            return
        self._link = None
        kept, self._kept = self._kept, {}
        self._wanted.clear()
        self._outstanding.clear()
        for takers in kept.values():
            self._release(list(takers))
        for wake in list(self._wake.values()):
            wake()

    def received(self, link: Link, answer: Answer) -> None:
        """Takes what the replica that decides has told."""
        if self._link is not link:
            return
        for number, tasks, priority in answer.wanted:
            if number in self._wake:
                self._wanted[number] = tasks, priority
        for number, worker_id, slots in answer.returned:
            self._release([taker for _ in range(slots) if (taker := self._spend(number, worker_id)) is not None])
        if answer.starts:
            self._take(answer.starts)
        for number in {number for number, *_ in answer.wanted} | {number for number, *_ in answer.returned}:
            if number in self._wake:
                self._wake[number]()

    async def drained(self) -> None:
        """Waits until what was started is handed on."""
        if self._reading:
            await asyncio.wait(self._reading)

    def _take(self, starts: Sequence[Start]) -> None:
        takers = {start.task_id: taker for start in starts if (taker := self._spend(start.number, start.worker_id)) is not None}
        _hand_on(takers, [start.lease for start in starts if start.lease is not None])
        elsewhere = [start for start in starts if start.lease is None]
        if elsewhere:
            reading = asyncio.create_task(self._read(takers, elsewhere))
            self._reading.add(reading)
            reading.add_done_callback(self._reading.discard)

    async def _read(self, takers: dict[str, Taker], starts: Sequence[Start]) -> None:
        """Reads what was started elsewhere and hands it on; what cannot be read is given to others when its lease has ended."""
        leases: Sequence[Lease] = ()
        for attempt in range(_READS):
            try:
                leases = await self._decisions.started(starts)
                break
            except DomainError as error:
                log.warning("started_not_read", error=str(error))
                await asyncio.sleep(0.05 * 2**attempt)
        _hand_on(takers, leases)
        read = {lease.run.task_id for lease in leases}
        self._release([takers[start.task_id] for start in starts if start.task_id not in read and start.task_id in takers])

    def _spend(self, number: int, worker_id: str) -> Taker | None:
        kept = self._kept.get((number, worker_id))
        if not kept:
            return None
        taker = kept.popleft()
        if not kept:
            del self._kept[number, worker_id]
        self._outstanding[number] -= 1
        if not self._outstanding[number]:
            del self._outstanding[number]
        return taker

    def _tell(self, message: Message) -> None:
        if self._link is not None:
            self._link.tell(message)

    def _release(self, takers: Sequence[Taker]) -> None:
        for taker, credits in Counter(takers).items():
            taker.release(credits)


def _hand_on(takers: dict[str, Taker], leases: Sequence[Lease]) -> None:
    given: dict[Taker, list[Lease]] = {}
    for lease in leases:
        taker = takers.get(lease.run.task_id)
        if taker is not None:
            given.setdefault(taker, []).append(lease)
    for taker, mine in given.items():
        taker.take(mine)
