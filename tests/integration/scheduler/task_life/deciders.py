"""Two replicas of which one decides what starts in queues with limits: the use case itself, over the tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from services.common.db.engine_role import EngineDriver
from services.common.errors import DomainError
from services.scheduler.domain.decision import Answer, Message, Start
from services.scheduler.domain.fence import EpochOver, LimitsChanged
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.task import NewTask, Task
from services.scheduler.storage.batches import Batches
from services.scheduler.storage.decided_queues import QueueList
from services.scheduler.storage.decisions import DecisionStatements
from services.scheduler.storage.dispatch_owners import DispatchOwners
from services.scheduler.usecases.decide_starts import DecideStarts, Peer
from services.scheduler.usecases.hub import Hub
from services.scheduler.usecases.new_starts import NewStarts

_ANSWER_SECONDS = 20.0


@dataclass
class Decider:
    """One replica, and the slots that a machine offers it."""

    name: str
    decide: DecideStarts
    owners: DispatchOwners
    started: list[Start] = field(default_factory=list)
    returned: int = 0
    _number: int = 0

    def __post_init__(self) -> None:
        self._peer = Peer(self._hear, here=True)
        self.decide.join(self._peer)

    async def quiet(self) -> None:
        """Waits until it knows of all that was committed: what it offers in the middle of a turn goes by what it knew before."""
        decide = self.decide
        async with asyncio.timeout(_ANSWER_SECONDS):
            while decide._in_turn or decide._changed or decide._over or decide._something.is_set() or not decide.deciding:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def offer(self, demand: Demand, worker_id: str, slots: int) -> Sequence[Start]:
        """Offers slots, and waits until each has a task or is given back; gives what has started, in order.

        Who does not decide any more gives nothing back: whoever has offered hears of that in another way.
        """
        self._number += 1
        self.started, self.returned = [], 0
        self.decide.take(self._peer, Message(opened=[(self._number, demand)], offers=[(self._number, worker_id, slots)]))
        async with asyncio.timeout(_ANSWER_SECONDS):
            while len(self.started) + self.returned < slots and self.decide.deciding:  # noqa: ASYNC110 - it says so to nobody
                await asyncio.sleep(0.001)
        self.decide.take(self._peer, Message(closed=[self._number]))
        return self.started

    async def create(
        self, batches: Batches, tasks: Sequence[NewTask], taken: Sequence[bool], decided: Sequence[bool], worker_id: str
    ) -> Sequence[Task | DomainError]:
        """Creates tasks of queues of their tenant, as CreateTask does.

        Those that a worker takes start, and if one replica decides for their queue, if its limits leave room.
        """
        starts = NewStarts(self.decide, self.decide.fence)
        for place, (task, takes, asks) in enumerate(zip(tasks, taken, decided, strict=True)):
            if asks:
                starts.concern()
            task.worker_id = worker_id if takes and (not asks or starts.begin(place, task, task.tenant_id)) else None
        try:
            answers = await batches.create(tasks, starts.fence)
        except (EpochOver, LimitsChanged):
            for place in starts.places:
                tasks[place].worker_id = None
            starts.refused()
            answers = await batches.create(tasks)
        begun = [
            isinstance(answer, Task) and answer.task_id == task.task_id and task.worker_id is not None
            for task, answer in zip(tasks, answers, strict=True)
        ]
        starts.settle(tasks, answers, [place for place, has in enumerate(begun) if not has])
        return answers

    def _hear(self, answer: Answer) -> None:
        self.started += answer.starts
        self.returned += sum(slots for _, _, slots in answer.returned)


class Deciders:
    """Both; the one that decides, and the other, which may believe that it does."""

    def __init__(self, engine: EngineDriver, hub: Hub, lease: timedelta) -> None:
        def decider(name: str) -> Decider:
            owners = DispatchOwners(engine, timedelta(seconds=1))
            statements = DecisionStatements(engine, owners, hub, lease)
            # Nobody creates tasks by an older list: what is there is decided on at once.
            return Decider(name, DecideStarts(name, statements, QueueList(engine), hub, lease.total_seconds(), 0.0), owners)

        self.now, self.before = decider("one"), decider("other")
        self._running: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Has one of them decide."""
        self._running = [asyncio.create_task(each.decide.run()) for each in (self.now, self.before)]
        await self.change()

    async def end(self) -> None:
        """Stops both."""
        for each in self._running:
            each.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def change(self) -> None:
        """The other one decides from now on; this one is not told."""
        # Whoever is to decide again has heard by now that it did not.
        self.before.decide.end()
        await self._until(lambda: not self.before.decide.deciding)
        self.now, self.before = self.before, self.now
        standing = await self.now.owners.stand(self.now.name, self.now.name, [self.before.name])
        assert standing.owner == self.now.name
        await self._until(self._decides)

    def _decides(self) -> bool:
        """Whether the one that is to decide does; told again and again, as by the election."""
        # A turn that was under way may have found just now that another one is the owner.
        if not self.now.decide.deciding:
            self.now.decide.begin()
        return self.now.decide.deciding

    async def know(self, limits_version: int) -> None:
        """Waits until the one that decides goes by these limits."""
        await self._until(lambda: (fence := self.now.decide.fence) is not None and fence.limits_version >= limits_version)

    async def _until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(_ANSWER_SECONDS):
            while not true():  # noqa: ASYNC110 - it says so to nobody
                await asyncio.sleep(0.001)
