"""Moves of the queues: limits and pauses come and go, defaults change, slots are offered, another replica decides."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest

from services.scheduler.domain.errors import QueueNotEmpty
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.task import State
from tests.integration.scheduler.task_life.life import WORKER
from tests.integration.scheduler.task_life.model import TENANT
from tests.integration.scheduler.task_life.queue_model import DROP_SECONDS, QueueModel, rivals_of
from tests.integration.scheduler.task_life.task_moves import TaskMoves

_MOST_SECONDS = 15.0
_PLENTY = 100
_VERSION = "SELECT limits_version FROM dispatch_epochs WHERE scope = 0"
_NOTHING = Demand(TENANT, frozenset({"nothing"}), frozenset())
_UNDECIDED = "SELECT count(*) FROM tasks WHERE queue = $1 AND queue_tenant IS NULL"


class QueueMoves(TaskMoves):
    """What is done to the queues, and to those who decide for them."""

    def limit(self, what: str, place: int, number: int) -> None:
        """One of the limits of a queue changes."""
        queue = self.any_queue_at(place)
        rate = queue.bucket.rate
        match what:
            case "limit":
                queue.max_running = number
            case "limit keys":
                queue.max_running_per_key = 1 + number % 2
            case "drip" | "flow":
                rate = what
            case "pause":
                queue.paused = True
            case "resume":
                queue.paused, rate = False, ""
            case "unlimit":
                queue.max_running = queue.max_running_per_key = None
                queue.paused, rate = False, ""
        if rate != queue.bucket.rate:
            queue.bucket.limit(rate, time.monotonic())
        self._change(queue)

    def any_queue_at(self, place: int) -> QueueModel:
        """Also the shared one."""
        return self.queues[(0, 0, 1, 2)[place % 4]]

    def create_guests(self, place: int, number: int) -> None:
        """Tasks of two tenants in the queue that they share."""
        queue = self.queues[-1]
        if not queue.decided:
            # It would be decided on some time after both tenants wait in it, which nobody foretells.
            queue.max_running = _PLENTY
            self._change(queue)
        tenants = [queue.tenants[(place + each) % 2] for each in range(number)]
        tasks = [self.asked(self.message(1 + place % 2, 2, "guest", queue=queue), tenant=tenant) for tenant in tenants]
        answers = self.world.do(self.world.batches.create(tasks))
        for tenant, answer in zip(tenants, answers, strict=True):
            assert not isinstance(answer, Exception), answer
            self.keep(answer.task_id, 1 + place % 2, 2, queue=queue, tenant=tenant)
        self.world.seen["shared"] += number

    def make_room(self, queue: QueueModel) -> None:
        """Its limit lets two more run than run and wait, and nothing else holds them back."""
        home = [model for model in self.models.values() if model.home is queue and model.decided]
        queue.max_running = 2 + sum(model.state in (State.RUNNING, State.PENDING) for model in home)
        queue.paused = False
        if queue.bucket.rate:
            queue.bucket.limit("", time.monotonic())
        self._change(queue)

    def set_defaults(self, place: int, number: int) -> None:
        """What new tasks get that do not say it themselves, and how long what fails is kept."""
        queue = self.any_queue_at(place + number)
        queue.priority = (3, 5, 7)[place % 3]
        queue.max_attempts = (None, 1, 2, 4)[number - 1]
        queue.patient = place % 2 == 1
        queue.retention_days = (None, 1, 7)[number % 3]
        queue.letter_days = (None, 90)[place % 2]
        self._change(queue)

    def delete(self, queue: QueueModel) -> None:
        """Deletes a queue that has no task but ended ones, and makes it anew, without limits and defaults."""
        deleting = self.world.delete_queue.execute(TENANT, queue.name, "", shared=False, operator=False)
        if any(model.home is queue and not model.state.ended for model in self.models.values()):
            with pytest.raises(QueueNotEmpty):
                self.world.do(deleting)
            self.world.seen["queue not empty"] += 1
            return
        self.world.do(deleting)
        # Whoever decides for a queue of this name does so for some time more.
        for field in dataclasses.fields(new := QueueModel(queue.name, decided=queue.decided)):
            setattr(queue, field.name, getattr(new, field.name))
        self.world.do(self.world.queues.create(queue.row()))
        self._heard()
        self.world.seen["queue deleted"] += 1

    def empty(self, queue: QueueModel) -> None:
        """Cancels all that is open in it."""
        for model in list(self.models.values()):
            if model.home is queue and not model.state.ended:
                self.cancel(model)

    def offer(self, number: int) -> None:
        """Slots for what is decided on: exactly what may start does, the first in line first."""
        if not any(queue.decided for queue in self.queues):
            return
        if any(model.late and model.decided and model.state is State.PENDING for model in self.models.values()):
            # Who decides may find out only when it tries to start it.
            self.sweep()
        while self._offer(number):
            # A rate kept something from starting: a moment later it lets it.
            self.world.seen["held back by a rate"] += 1
            self.world.do(asyncio.sleep(DROP_SECONDS))

    def _offer(self, number: int) -> bool:
        """Whether a flow may have kept something from starting."""
        self.world.do(self.world.deciders.now.quiet())
        before = time.monotonic()
        starts = self.world.do(self.world.deciders.now.offer(self.demand, WORKER, number))
        now = time.monotonic()
        for queue in self.queues:
            queue.bucket.spend(0, before, now)
        models = list(self.models.values())
        for start in starts:
            model = self.models[start.task_id]
            assert model.home is not None
            assert model in (firsts := model.home.firsts(models)), f"not of {firsts}: {model}"
            # What its rate has kept from starting may start a moment later.
            assert all(queue.bucket.dry for queue in rivals_of(model, self.queues, models)), f"not the first in line: {model}"
            assert start.lease is not None
            self.world.seen["of a shared queue"] += model.home.decided and model.home.owner != TENANT
            self.started(start.lease, lost=False)
            model.home.bucket.spend(1, before, now)
            self.world.seen["let through by a rate"] += model.home.bucket.rate != ""
        kept = [queue for queue in self.queues if queue.firsts(models)] if len(starts) < number else []
        left = [model for queue in kept if not queue.bucket.dry for model in queue.firsts(models)]
        assert not left, f"left waiting after {len(starts)} starts on {number} slots: {left}"
        waiting = any(model.state is State.PENDING and model.decided for model in models)
        self.world.seen["held back"] += waiting and len(starts) < number
        self.world.seen["decided"] += len(starts)
        return any(queue.bucket.rate == "flow" for queue in kept)

    def offer_to_another(self, number: int) -> None:
        """Slots for a replica that is not the one to decide, and may believe that it is: it starts nothing."""
        if any(queue.decided for queue in self.queues):
            before = self.world.deciders.before
            self.world.seen["decided no more"] += before.decide.deciding
            assert not self.world.do(before.offer(self.demand, WORKER, number))

    def change_owner(self) -> None:
        """Another replica decides, and reads from the tables what waits and runs."""
        before = time.monotonic()
        self.world.do(self.world.deciders.change())
        for queue in self.queues:
            queue.bucket.begin_anew(before, time.monotonic())
        self.world.seen["taken over"] += any(queue.decided for queue in self.queues)

    def _change(self, queue: QueueModel) -> None:
        """Writes a queue; whoever creates tasks hears of it, and whoever decides."""
        self.world.do(self.world.queues.change(queue.owner, queue.name, lambda _: queue.row()))
        self._heard()
        queue.bucket.known(time.monotonic())
        if queue.limited and not queue.decided:
            queue.decided = True
            end = time.monotonic() + _MOST_SECONDS
            while self.world.query(_UNDECIDED, queue.name) != [(0,)]:
                assert time.monotonic() < end, "there are tasks that nobody decides on"
                self.world.do(asyncio.sleep(0.005))
            # Whoever decides tells of a slot for nothing in particular only when it has learnt what there is.
            assert not self.world.do(self.world.deciders.now.offer(_NOTHING, WORKER, 1))
            for model in self.models.values():
                if model.home is queue:
                    model.decided = not model.state.ended

    def _heard(self) -> None:
        """Waits until whoever creates tasks and whoever decides go by the queues as they are now."""
        self.world.do(self.world.decided.read())
        [(version,)] = self.world.query(_VERSION)
        assert isinstance(version, int)
        self.world.do(self.world.deciders.know(version))
