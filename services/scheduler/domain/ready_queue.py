"""One queue in the memory of the replica that decides: its tenants with what waits of them, its keys, and how much runs."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from services.scheduler.domain.head import Head, Place
from services.scheduler.domain.limits import Limits, QueueKey, TokenBucket
from services.scheduler.domain.shares import Account

_MOST_REMEMBERED = 400
"""tasks of a lane that came by themselves; behind them the table remembers."""


@dataclass(slots=True, eq=False)
class ReadyLane:
    """What is remembered of the tasks of one kind of one tenant in it."""

    heads: list[Head] = field(default_factory=list)
    last: Place | None = None
    """the place up to which it was read; None when it was never read."""
    more: bool = False
    """whether others wait behind that."""

    def passes(self, head: Head) -> bool:
        """Whether a task that has come is to be remembered now; else it is read when its turn comes."""
        if not self.more and len(self.heads) >= _MOST_REMEMBERED:
            self.last, self.more = max(each.place for each in self.heads), True
        return not self.more or self.last is None or head.place < self.last


@dataclass(slots=True, eq=False)
class ReadyTenant:
    """The share of one tenant in one queue."""

    account: Account
    lanes: dict[str, ReadyLane] = field(default_factory=dict)
    """by kind."""
    running: int = 0
    version: int = 0
    listed: bool = False

    def waits(self) -> bool:
        """Whether a task waits of it in some lane."""
        return any(lane.heads for lane in self.lanes.values())


@dataclass(slots=True, eq=False)
class ReadyKey:
    """A concurrency key, with tasks that wait until it has room."""

    running: int = 0
    parked: list[Head] = field(default_factory=list)
    more: bool = False
    """whether others wait for it in the table only."""


_Entry = tuple[float, int, int, ReadyTenant]


class ReadyQueue:
    """A queue."""

    def __init__(self, key: QueueKey, limits: Limits, clock: Callable[[], float]) -> None:
        self._number = 0
        self.key = key
        self.limit(limits)
        self.bucket = TokenBucket(clock)
        self.running = 0
        self.waiting: Counter[str] = Counter()
        """tasks in lanes, by kind."""
        self.tenants: dict[str, ReadyTenant] = {}
        self.keys: dict[str, ReadyKey] = {}
        self.order: list[_Entry] = []
        """tenants of which something waits, the one whose turn it is first; entries of older versions are void."""
        self.virtual_time = 0.0

    def limit(self, limits: Limits) -> None:
        """Has these limits from now on."""
        self.limits = limits
        self.weights = dict(limits.weights)

    def held(self) -> str:
        """The limit that keeps every task of it from starting; empty when none does."""
        limits = self.limits
        if limits.paused:
            return "paused"
        if limits.max_running is not None and self.running >= limits.max_running:
            return "max_running"
        # A pause for a token ends a little before or after it is whole.
        return "rate" if self.bucket.tokens(limits) < 1 - 1e-6 else ""

    def room(self) -> float:
        """How many tasks may start now."""
        if self.held():
            return 0
        limits = self.limits
        left = math.inf if limits.max_running is None else limits.max_running - self.running
        return min(left, self.bucket.tokens(limits))

    def full(self, head: Head) -> bool:
        """Whether as many tasks of its key run as may."""
        limit = self.limits.max_running_per_key
        return limit is not None and head.key is not None and self.key_of(head.key).running >= limit

    def key_of(self, name: str) -> ReadyKey:
        """A key by its name."""
        key = self.keys.get(name)
        if key is None:
            key = self.keys[name] = ReadyKey()
        return key

    def tenant(self, name: str) -> ReadyTenant:
        """A tenant by its name."""
        tenant = self.tenants.get(name)
        if tenant is None:
            account = Account(self.weights.get(name, 1.0))
            tenant = self.tenants[name] = ReadyTenant(account)
        return tenant

    def lane(self, head: Head) -> ReadyLane:
        """The lane of a task."""
        lanes = self.tenant(head.lane.tenant_id).lanes
        lane = lanes.get(head.lane.kind)
        if lane is None:
            lane = lanes[head.lane.kind] = ReadyLane()
        return lane

    def list(self, tenant: ReadyTenant) -> None:
        """Puts a tenant into the order, at its tag."""
        tenant.listed = True
        tenant.version += 1
        self._number += 1
        heapq.heappush(self.order, (tenant.account.tag, tenant.version, self._number, tenant))

    def charge(self, tenant: ReadyTenant, seconds: float) -> None:
        """Charges slot-seconds to a tenant; less than 0 gives back."""
        tenant.account.charge(seconds)
        if seconds < 0 and tenant.listed:
            # Where it lies in the order is too late a place.
            self.list(tenant)

    def enter(self, head: Head) -> None:
        """Puts a task into its lane."""
        tenant = self.tenant(head.lane.tenant_id)
        if not tenant.waits():
            tenant.account.come_back(self.virtual_time)
        heapq.heappush(self.lane(head).heads, head)
        self.waiting[head.lane.kind] += 1
        if not tenant.listed:
            self.list(tenant)

    def prune(self) -> None:
        """Forgets tenants of which nothing waits or runs, and that would not be treated otherwise if they were known."""
        for name, tenant in list(self.tenants.items()):
            idle = not tenant.running and not tenant.waits() and not any(lane.more for lane in tenant.lanes.values())
            if idle and tenant.account.tag <= self.virtual_time:
                tenant.version += 1
                del self.tenants[name]

    def left(self, kind: str) -> None:
        """A task of a kind has left its lane."""
        self.waiting[kind] -= 1
        if not self.waiting[kind]:
            del self.waiting[kind]

    def drop(self, head: Head) -> None:
        """Forgets a task that waits."""
        lane = self.lane(head)
        if head in lane.heads:
            lane.heads.remove(head)
            heapq.heapify(lane.heads)
            self.left(head.lane.kind)
        elif head.key is not None and head in (parked := self.key_of(head.key).parked):
            parked.remove(head)
            heapq.heapify(parked)
