"""The replica that decides: what starts next of the queues that have limits, or in which several tenants wait.

It decides from memory and writes the starts in one transaction at a time, so that batches grow with the load. One coroutine does
it all in turns (learn what has changed, decide, start, tell), so that nothing it reads can be older than what it has started.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from services.common.errors import DomainError
from services.scheduler.domain.decision import (
    Answer,
    Decisions,
    Message,
    QueueDecisions,
    Start,
    ToStart,
)
from services.scheduler.domain.demand_book import Want
from services.scheduler.domain.fence import EpochOver, Fence, LimitsChanged
from services.scheduler.domain.head import Head, LaneKey
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.ready import OF_KEY, WINDOW, Ready
from services.scheduler.domain.task import Lease
from services.scheduler.domain.wake import Wake
from services.scheduler.usecases import dispatch_metrics as metrics
from services.scheduler.usecases.hub import Hub
from services.scheduler.usecases.keep_queues import KeepQueues

log = structlog.get_logger(__name__)

MOST_STARTS = 500
_MOST_LOOKED_AT = 5000
_LOOK_SECONDS = 1.0
_TICK_SECONDS = 0.25
_AGAIN_SECONDS = 0.2
"""after which a task is looked at again that could not be started."""
_LONGEST_PAUSE = 1.0
_ALL_AGAIN_SECONDS = 10.0
"""after a take-over, when everything that runs is looked at again: whoever decided before told nobody of what ended by its own
hand, and its transactions have ended by then (services.common.db.driver)."""
Taken = Sequence[tuple[Head, Want["Peer"], str]]


class Peer:
    """A replica, as the one that decides sees it."""

    def __init__(self, send: Callable[[Answer], None], *, here: bool) -> None:
        """`send` takes answers without waiting; `here` says that it is this process."""
        self.send = send
        self.here = here
        self.wants: dict[int, Want[Peer]] = {}


class DecideStarts:
    """Decides while this process is the one to."""

    def __init__(
        self, name: str, decisions: Decisions, queues: QueueDecisions, hub: Hub, lease_seconds: float, settle_seconds: float
    ) -> None:
        """What has not been heard of for `lease_seconds` is looked up."""
        self._name = name
        self._decisions = decisions
        self._queues = queues
        self._lease_seconds = lease_seconds
        self._owner = False
        self._epoch: int | None = None
        self._limits_version = 0
        self._ready = Ready()
        self._keep = KeepQueues(queues, settle_seconds)
        self._peers: list[Peer] = []
        self._changed: dict[str, None] = {}
        self._converted: set[str] = set()
        """those of them that were not decided on before."""
        self._over: list[str] = []
        """tasks that have ended since the last turn."""
        self._lost = False
        """whether notifications may have been lost, so that what is remembered may be wrong."""
        self._in_turn = False
        self._something = asyncio.Event()
        self._look_at = self._tick_at = 0.0
        self._all_again_at: float | None = None
        self._hub = hub
        hub.listen(self._woken)

    @property
    def deciding(self) -> bool:
        """Whether it is the one that decides, as far as it knows."""
        return self._epoch is not None

    @property
    def fence(self) -> Fence | None:
        """By what it decides now; None while it does not."""
        return None if self._epoch is None or self._lost else Fence(self._epoch, self._limits_version)

    def startable(self, demand: Demand) -> int:
        """How many tasks wait that could start on slots of this demand, counted up to MOST_STARTS."""
        return self._ready.startable(demand, MOST_STARTS)[0]

    def begin_new(self, lane: LaneKey, task_id: str, key: str | None, priority: int) -> Head | None:
        """A task that is being created starts at once, unless limits keep it or others wait in its queue."""
        return self._ready.begin_new(lane, task_id, key, priority)

    def add_new(self, heads: Iterable[Head]) -> None:
        """Tasks were created that wait, by a transaction that was fenced: nobody else tells of them."""
        for head in heads:
            self._ready.add(head)
        self._something.set()

    def give_back(self, head: Head) -> None:
        """A new task did not start, for certain."""
        self._ready.give_back(head)
        self._something.set()

    def look_again(self) -> None:
        """Limits may have changed."""
        self._look_at = 0.0
        self._something.set()

    def doubt(self) -> None:
        """Whether something has started is not known: what is remembered may be wrong."""
        self._lost = True
        self._something.set()

    def begin(self) -> None:
        """This process is to decide from now on."""
        self._owner = True
        self._something.set()

    def end(self) -> None:
        """Another one is."""
        self._owner = False
        self._something.set()

    def join(self, peer: Peer) -> None:
        """A replica comes."""
        self._peers.append(peer)

    def leave(self, peer: Peer) -> None:
        """A replica goes; what it offered is void."""
        if peer in self._peers:
            self._peers.remove(peer)

    def take(self, peer: Peer, message: Message) -> None:
        """Takes what a replica tells."""
        for number, demand in message.opened:
            peer.wants[number] = Want(peer, number, demand)
        for number, worker_id, slots in message.offers:
            if number in peer.wants:
                peer.wants[number].offer(worker_id, slots)
            else:
                peer.send(Answer(returned=[(number, worker_id, slots)]))
        for number in message.closed:
            if (want := peer.wants.pop(number, None)) is not None and want.slots:
                peer.send(Answer(returned=[(number, *offer) for offer in want.take_all()]))
        for waiting in message.waiting:
            self._keep.waits(*waiting)
            self._look_at = 0.0
        self._something.set()

    async def run(self) -> None:
        """Decides until cancelled; survives the database being away."""
        pause = 0.05
        while True:
            await self._wait()
            self._something.clear()
            # Whoever is ready to tell something may still be part of this turn.
            await asyncio.sleep(0)
            if not self._owner:
                if self.deciding:
                    self._forget()
                continue
            self._in_turn = True
            try:
                await self._turn()
                pause = 0.05
            except EpochOver:
                metrics.refused.labels("epoch").inc()
                log.info("epoch_over", epoch=self._epoch)
                self._forget()
                await asyncio.sleep(pause)
            except DomainError as error:
                log.warning("decisions_failed", error=str(error), retry_in=pause)
                self._forget()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except Exception:
                log.exception("decisions_failed", retry_in=_LONGEST_PAUSE)
                self._forget()
                await asyncio.sleep(_LONGEST_PAUSE)
            finally:
                self._in_turn = False

    async def _turn(self) -> None:
        if self._lost:
            self._forget()
        if self._epoch is None and not await self._take_over():
            return
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            # A message that was lost must not keep a slot for ever.
            since = now - self._lease_seconds
            if self._all_again_at is not None and now >= self._all_again_at:
                since, self._all_again_at = math.inf, None
            overdue = self._ready.doubtful(since)
            self._changed |= dict.fromkeys(random.sample(overdue, min(len(overdue), _MOST_LOOKED_AT)))
            self._ready.prune()
            await self._keep_queues()
        if now >= self._tick_at:
            self._tick_at = now + _TICK_SECONDS
            self._ready.tick()
        await self._learn()
        self._converted &= self._changed.keys()
        if not self._converted:
            await self._keep.settle(self._epoch_of())
        if await self._decide():
            self._something.set()
        self._tell()

    async def _take_over(self) -> bool:
        """Begins an epoch, then reads what waits and runs; whether this process still is the one to."""
        self._changed, self._over, self._lost = {}, [], False
        self._converted = set()
        epoch = await self._decisions.take_over(self._name)
        if epoch is None:
            self._owner = False
            return False
        ready = Ready()
        known = await self._queues.queues()
        ready.limit(known.limits)
        self._limits_version = known.version
        running, pages = await self._decisions.everything(WINDOW)
        for seen in running:
            ready.add_running(seen.head, seen.seconds)
        for page in pages:
            ready.add_page(page)
        self._ready, self._epoch, self._look_at = ready, epoch, 0.0
        self._all_again_at = time.monotonic() + _ALL_AGAIN_SECONDS
        self._hub.decides = True
        self._keep.begin()
        metrics.owner.set(1)
        metrics.take_overs.inc()
        log.info("decides", epoch=epoch, running=len(running), lanes=len(pages))
        return True

    async def _keep_queues(self) -> None:
        usage = self._ready.usage()
        known, changed = await self._keep.keep(self._epoch_of(), usage)
        self._ready.limit(known.limits)
        self._limits_version = known.version
        self._changed |= dict.fromkeys(changed)
        self._converted |= set(changed)
        if self._keep.busy:
            self._look_at = 0.0
            self._something.set()
        metrics.running.clear()
        for (_, queue), (running, _) in usage.items():
            metrics.running.labels(queue).inc(running)

    async def _learn(self) -> None:
        """Reads what has changed, and more of what is waited for."""
        # Whatever is read from here on is newer than these ends; of an end that comes meanwhile the next turn takes note.
        over, self._over = self._over, []
        self._ready.over(over)
        if self._changed:
            asked = list(self._changed)[:_MOST_LOOKED_AT]
            for task_id in asked:
                del self._changed[task_id]
            self._ready.see(asked, await self._decisions.look(asked))
            if self._changed:
                self._something.set()
        if hungry := self._ready.hungry():
            for name, heads in zip(hungry, await self._decisions.of_keys(hungry, OF_KEY), strict=True):
                self._ready.add_of_key(name, heads)
        if low := self._ready.low():
            for page in await self._decisions.pages(low, WINDOW):
                self._ready.add_page(page)
            self._something.set()

    async def _decide(self) -> bool:
        """Starts what may start; whether there may be more at once."""
        ready, begun = self._ready, time.monotonic()
        taken = ready.take([want for peer in self._peers for want in peer.wants.values()], MOST_STARTS)
        for (queue, limit), number in ready.throttled.items():
            metrics.throttled.labels(queue, limit).inc(number)
        ready.throttled.clear()
        if not taken:
            return False
        starts = [ToStart(head.task_id, worker_id, want.owner.here) for head, want, worker_id in taken]
        try:
            leases = await self._decisions.start(Fence(self._epoch_of(), self._limits_version), starts)
        except LimitsChanged:
            metrics.refused.labels("limits").inc()
            self._settle(taken, ())
            await self._keep_queues()
            # They may start by the limits that are.
            self._look_again([head.task_id for head, *_ in taken])
            return False
        except BaseException:
            # Whether it is committed is not known, and these slots are void: only a new epoch finds out what runs.
            self._return(taken)
            raise
        metrics.decisions.observe(time.monotonic() - begun)
        metrics.starts.labels("waited").inc(len(leases))
        self._settle(taken, leases)
        return len(taken) == MOST_STARTS

    def _settle(self, taken: Taken, leases: Sequence[Lease]) -> None:
        """Hands on what was started; what was not is looked at again, and its slot is there for another."""
        started = {lease.run.task_id: lease for lease in leases}
        answers: dict[Peer, Answer] = {}
        missing = []
        for head, want, worker_id in taken:
            lease = started.get(head.task_id)
            if lease is None:
                self._ready.give_back(head)
                missing.append(head.task_id)
                want.offer(worker_id, 1)
                continue
            peer = want.owner
            start = Start(want.number, worker_id, head.task_id, lease.run.attempt, lease if peer.here else None)
            answers.setdefault(peer, Answer()).starts.append(start)
        for peer, answer in answers.items():
            peer.send(answer)
        if missing:
            asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._look_again, missing)

    def _return(self, taken: Taken) -> None:
        for _, want, worker_id in taken:
            want.owner.send(Answer(returned=[(want.number, worker_id, 1)]))

    def _tell(self) -> None:
        """Tells each replica how many slots could be filled; what nothing can be done with goes back at once."""
        counted: dict[Demand, tuple[int, int]] = {}
        for peer in self._peers:
            answer = Answer()
            for want in peer.wants.values():
                if want.demand not in counted:
                    counted[want.demand] = self._ready.startable(want.demand, MOST_STARTS)
                number, priority = counted[want.demand]
                if not number and want.slots:
                    answer.returned += [(want.number, *offer) for offer in want.take_all()]
                if _worth_telling(want.told, number) or (number and priority != want.priority):
                    want.told, want.priority = number, priority
                    answer.wanted.append((want.number, number, priority))
            if answer:
                peer.send(answer)

    def _look_again(self, task_ids: Sequence[str]) -> None:
        self._changed |= dict.fromkeys(task_ids)
        self._something.set()

    def _forget(self) -> None:
        """What is remembered may be wrong: nothing is decided until it has been read anew, behind a new epoch."""
        self._epoch = None
        self._hub.decides = False
        self._ready = Ready()
        metrics.owner.set(0)
        metrics.running.clear()
        self._something.set()
        self._tell()

    def _epoch_of(self) -> int:
        if self._epoch is None:
            raise EpochOver
        return self._epoch

    def _woken(self, wake: Wake) -> None:
        if not self._owner:
            return
        if wake.decided is None or wake.over is None:
            self._lost = True
            self._something.set()
        elif wake.decided:
            # What this process has told itself, PostgreSQL tells again: looking twice does no harm, and of a commit whose answer
            # was lost only the second tells.
            self._changed |= dict.fromkeys(wake.decided)
            self._something.set()
        if wake.over:
            self._take_note(wake.over)
        if wake.queues is None or wake.queues:
            self._look_at = 0.0
            self._something.set()

    def _take_note(self, over: Sequence[str]) -> None:
        """Tasks have ended: in the middle of a turn, which may have read them before, that is for the next one."""
        if self._in_turn:
            self._over += over
        else:
            self._ready.over(over)
        if self._in_turn or self._ready.waits:
            self._something.set()

    async def _wait(self) -> None:
        pause = self._ready.pause()
        limit = _TICK_SECONDS if self._ready.running else _LOOK_SECONDS
        try:
            async with asyncio.timeout(limit if pause is None else min(limit, pause)):
                await self._something.wait()
        except TimeoutError:
            return


def _worth_telling(told: int, number: int) -> bool:
    """Whether it makes a difference how many slots are offered; of many, some more or fewer do not."""
    if not told or not number or max(told, number) < 20:
        return told != number
    return not told / 2 <= number <= told * 2
