"""What an owner has in memory: waiting tasks by tenant, and how much runs of each queue, key and tenant.

The next task is of the tenant that has used least for its weight: slot-seconds of what ended, and of what runs the seconds so far
or the usual ones, whichever is more. What was used is forgotten by and by: instead of shrinking old figures, new ones count more.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from bench.dispatch.loads import Limits

FORGET_SECONDS = 5.0
FIRST_ESTIMATE = 0.1
"""seconds of a task of a tenant of which nothing is known."""
_NOTHING = Limits()


@dataclass(slots=True, eq=False)
class Head:
    """A waiting or running task."""

    task_id: str
    tenant: str
    queue: str
    key: str | None
    priority: int
    position: int
    started: float = 0.0
    charged: float = 0.0

    def __lt__(self, other: Head) -> bool:
        return (-self.priority, self.position) < (-other.priority, other.position)


@dataclass(slots=True, eq=False)
class _Tenant:
    weight: float
    used: float = 0.0
    estimate: float = FIRST_ESTIMATE


@dataclass(slots=True, eq=False)
class _Key:
    running: int = 0
    parked: list[Head] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Lane:
    """What waits of one tenant in one queue."""

    tenant: _Tenant
    queue: _Queue
    heads: list[Head] = field(default_factory=list)
    version: int = 0
    listed: bool = False


_Entry: TypeAlias = tuple[float, int, int, _Lane]


@dataclass(slots=True, eq=False)
class _Queue:
    limits: Limits
    running: int = 0
    full: list[_Entry] = field(default_factory=list)
    """lanes that wait for room in the queue, the most entitled first."""


class Ready:
    """All that is needed to decide, without asking the database."""

    def __init__(self, queues: Mapping[str, Limits], weights: Mapping[str, int]) -> None:
        self.running: dict[str, Head] = {}
        self.waiting: dict[str, Head] = {}
        self._queues = {name: _Queue(limits) for name, limits in queues.items()}
        self._weights = weights
        self._tenants: dict[str, _Tenant] = {}
        self._keys: dict[tuple[str, str], _Key] = {}
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._order: list[_Entry] = []
        self._number = 0
        self._epoch = time.monotonic()

    def add(self, heads: Iterable[Head]) -> None:
        """Takes in tasks that wait; those that are known already do not count again."""
        for head in heads:
            if head.task_id not in self.running and head.task_id not in self.waiting:
                self.waiting[head.task_id] = head
                self._wait(head)

    def add_running(self, head: Head, seconds: float) -> None:
        """Takes in a task that has been running for so long."""
        head.started = time.monotonic() - seconds
        self._start(head, self._lane(head))

    def take(self, most: int) -> list[Head]:
        """The next tasks to start, which count as running from now on."""
        taken: list[Head] = []
        while len(taken) < most and self._order:
            at, version, _, lane = heapq.heappop(self._order)
            if version != lane.version:
                continue
            if lane.tenant.used / lane.tenant.weight > at:
                self._list(lane)
                continue
            queue = lane.queue
            if queue.limits.running is not None and queue.running >= queue.limits.running:
                self._number += 1
                heapq.heappush(queue.full, (at, version, self._number, lane))
                continue
            head = heapq.heappop(lane.heads)
            key = self._key(head)
            lane.listed = False
            if key is not None and queue.limits.per_key is not None and key.running >= queue.limits.per_key:
                heapq.heappush(key.parked, head)
            else:
                head.started = time.monotonic()
                del self.waiting[head.task_id]
                self._start(head, lane)
                taken.append(head)
            if lane.heads:
                self._list(lane)
            elif queue.full:
                self._unfill(queue)
        return taken

    def finish(self, task_id: str, *, again: bool = False) -> None:
        """A task runs no more; `again` when it waits for its next attempt."""
        head = self.running.pop(task_id, None)
        if head is None:
            return
        lane = self._lane(head)
        tenant, queue, now = lane.tenant, lane.queue, time.monotonic()
        seconds = now - head.started
        tenant.used += seconds * self._inflation(now) - head.charged
        tenant.estimate += 0.2 * (seconds - tenant.estimate)
        queue.running -= 1
        key = self._key(head)
        if key is not None:
            key.running -= 1
            if key.parked:
                self._wait(heapq.heappop(key.parked))
            elif not key.running:
                del self._keys[head.queue, str(head.key)]
        if lane.listed:
            self._list(lane)
        if queue.full:
            self._unfill(queue)
        if again:
            self.add([head])

    def tick(self) -> None:
        """Charges those whose tasks run longer than usual."""
        now = time.monotonic()
        inflation = self._inflation(now)
        for head in self.running.values():
            due = (now - head.started) * inflation
            if due > head.charged:
                self._lane(head).tenant.used += due - head.charged
                head.charged = due

    def _inflation(self, now: float) -> float:
        return math.exp((now - self._epoch) / FORGET_SECONDS)

    def _start(self, head: Head, lane: _Lane) -> None:
        self.running[head.task_id] = head
        lane.queue.running += 1
        key = self._key(head)
        if key is not None:
            key.running += 1
        now = time.monotonic()
        head.charged = max(lane.tenant.estimate, now - head.started) * self._inflation(now)
        lane.tenant.used += head.charged

    def _wait(self, head: Head) -> None:
        lane = self._lane(head)
        heapq.heappush(lane.heads, head)
        if not lane.listed:
            self._list(lane)

    def _list(self, lane: _Lane) -> None:
        lane.listed = True
        lane.version += 1
        self._number += 1
        heapq.heappush(self._order, (lane.tenant.used / lane.tenant.weight, lane.version, self._number, lane))

    def _unfill(self, queue: _Queue) -> None:
        """Gives the lane that is most entitled another try."""
        while queue.full:
            _, version, _, lane = heapq.heappop(queue.full)
            if version == lane.version:
                self._list(lane)
                return

    def _lane(self, head: Head) -> _Lane:
        lane = self._lanes.get((head.tenant, head.queue))
        if lane is None:
            tenant = self._tenants.get(head.tenant)
            if tenant is None:
                tenant = self._tenants[head.tenant] = _Tenant(self._weights.get(head.tenant, 1))
            lane = self._lanes[head.tenant, head.queue] = _Lane(tenant, self._queues[head.queue])
        return lane

    def _key(self, head: Head) -> _Key | None:
        if head.key is None or self._queues[head.queue].limits.per_key is None:
            return None
        key = self._keys.get((head.queue, head.key))
        if key is None:
            key = self._keys[head.queue, head.key] = _Key()
        return key
