"""Slots that were offered for tasks that are decided on: who has them, and for which tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from services.scheduler.domain.ports import Demand

Owner = TypeVar("Owner")


class Want(Generic[Owner]):
    """Offered slots of one demand of one replica."""

    def __init__(self, owner: Owner, number: int, demand: Demand) -> None:
        self.owner = owner
        self.number = number
        """of the demand, as its replica calls it."""
        self.demand = demand
        self.slots = 0
        self.told = 0
        """how many tasks it was told could start,"""
        self.priority = 0
        """and the priority of the first of their queues."""
        self._workers: deque[tuple[str, int]] = deque()

    def offer(self, worker_id: str, slots: int) -> None:
        """Adds slots of a worker."""
        self._workers.append((worker_id, slots))
        self.slots += slots

    def take(self) -> str:
        """A slot, of the workers in turn; there must be one. Gives its worker."""
        worker_id, slots = self._workers.popleft()
        self.slots -= 1
        if slots > 1:
            self._workers.append((worker_id, slots - 1))
        return worker_id

    def take_all(self) -> list[tuple[str, int]]:
        """Empties it; gives the workers with their slots."""
        offered = list(self._workers)
        self._workers.clear()
        self.slots = 0
        return offered

    def fits(self, tenant_id: str, queue: str) -> bool:
        """Whether a task of this tenant and queue, of one of its kinds, is for it."""
        demand = self.demand
        return demand.tenant_id in (None, tenant_id) and (not demand.queues or queue in demand.queues)


class DemandBook(Generic[Owner]):
    """The wants that have slots, by the kinds of task they are for."""

    def __init__(self, wants: Iterable[Want[Owner]]) -> None:
        self._by_kind: dict[str, list[Want[Owner]]] = {}
        for want in wants:
            if want.slots:
                for kind in want.demand.kinds:
                    self._by_kind.setdefault(kind, []).append(want)

    def find(self, kind: str, tenant_id: str, queue: str) -> Want[Owner] | None:
        """The one with most slots of those that a task is for."""
        found: Want[Owner] | None = None
        for want in self._by_kind.get(kind, ()):
            if want.slots > (0 if found is None else found.slots) and want.fits(tenant_id, queue):
                found = want
        return found
