"""Moves of the queue: limits and pauses come and go, defaults change, slots are offered, another replica decides."""

from __future__ import annotations

import asyncio
import time

from services.scheduler.domain.task import State
from tests.integration.scheduler.task_life.life import TENANT, WORKER
from tests.integration.scheduler.task_life.task_moves import TaskMoves

_MOST_SECONDS = 15.0
_VERSION = "SELECT limits_version FROM dispatch_epochs WHERE scope = 0"
_UNDECIDED = "SELECT count(*) FROM tasks WHERE tenant_id = $1 AND queue = $2 AND queue_tenant IS NULL"


class QueueMoves(TaskMoves):
    """What is done to the queue, and to those who decide for it."""

    def limit(self, what: str, number: int) -> None:
        """One of its limits changes."""
        queue = self.queue
        match what:
            case "limit":
                queue.max_running = number
            case "limit keys":
                queue.max_running_per_key = 1 + number % 2
            case "drip":
                queue.dripping = True
            case "pause":
                queue.paused = True
            case "resume":
                queue.paused = queue.dripping = False
            case "unlimit":
                queue.max_running = queue.max_running_per_key = None
                queue.dripping = queue.paused = False
        self._change()

    def set_defaults(self, place: int, number: int) -> None:
        """What new tasks get that do not say it themselves, and how long what fails is kept."""
        queue = self.queue
        queue.priority = (3, 5, 7)[place % 3]
        queue.max_attempts = (None, 1, 2, 4)[number - 1]
        queue.patient = place % 2 == 1
        queue.retention_days = (None, 1, 7)[number % 3]
        queue.letter_days = (None, 90)[place % 2]
        self._change()

    def offer(self, number: int) -> None:
        """Slots for what is decided on: exactly what may start does, the first in line first."""
        if not self.queue.decided:
            return
        if any(model.late and model.decided and model.state is State.PENDING for model in self.models.values()):
            # Who decides goes on trying to start it until the sweeper has ended it.
            self.sweep()
        wanted = [model.task_id for model in self.queue.next(self.models.values(), number)]
        waiting = any(model.state is State.PENDING and model.decided for model in self.models.values())
        self.world.seen["held back"] += waiting and len(wanted) < number
        starts = self.world.do(self.world.deciders.now.offer(self.demand, WORKER, number))
        given = [start.task_id for start in starts]
        assert given == wanted, "not the first in line, more than may, or somebody was left waiting"
        for start in starts:
            assert start.lease is not None
            self.started(start.lease, lost=False)
        self.world.seen["decided"] += len(given)

    def offer_to_another(self, number: int) -> None:
        """Slots for a replica that is not the one to decide, and may believe that it is: it starts nothing."""
        if self.queue.decided:
            before = self.world.deciders.before
            self.world.seen["decided no more"] += before.decide.deciding
            assert not self.world.do(before.offer(self.demand, WORKER, number))

    def change_owner(self) -> None:
        """Another replica decides, and reads from the tables what waits and runs."""
        self.world.do(self.world.deciders.change())
        self.world.seen["taken over"] += self.queue.decided

    def _change(self) -> None:
        """Writes the queue; whoever creates tasks hears of it, and whoever decides."""
        queue = self.queue
        self.world.do(self.world.queues.change(TENANT, self.kind, lambda _: queue.row(TENANT)))
        self.world.do(self.world.decided.read())
        [(version,)] = self.world.query(_VERSION)
        assert isinstance(version, int)
        self.world.do(self.world.deciders.know(version))
        if queue.limited and not queue.decided:
            queue.decided = True
            end = time.monotonic() + _MOST_SECONDS
            while self.world.query(_UNDECIDED, TENANT, self.kind) != [(0,)]:
                assert time.monotonic() < end, "there are tasks that nobody decides on"
                self.world.do(asyncio.sleep(0.005))
            for model in self.models.values():
                model.decided = not model.state.ended
