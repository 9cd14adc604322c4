"""What one replica has in memory to decide what starts next, without asking the database.

Of each lane it has the first tasks that wait, and reads more when few are left; of each key that is full some that wait for it;
of each queue what runs. The tenants of a queue come by fair shares of their weights (services.scheduler.domain.shares), the tasks
of a tenant by priority, then first in, first out; of the next tasks of all queues that of the queue with the highest priority,
then by the task's own, as where replicas race.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from services.scheduler.domain.demand_book import DemandBook, Want
from services.scheduler.domain.head import Head, LaneKey, Page, Place, Seen
from services.scheduler.domain.limits import Limits, QueueKey
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.ready_queue import ReadyKey, ReadyLane, ReadyQueue, ReadyTenant

WINDOW = 100
"""tasks of a lane that are read at once."""
_LOW = 25
OF_KEY = 50
"""tasks of one key that are remembered while it is full, and read at once."""
KeyName = tuple[QueueKey, str]


class Ready:
    """All that is needed to decide."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never go back."""
        self.running: dict[str, Head] = {}
        self.throttled: Counter[tuple[str, str]] = Counter()
        """decisions in which a limit kept waiting tasks of a queue from starting, by the queue's name and the limit."""
        self._clock = clock
        self._counted: dict[str, tuple[ReadyQueue, ReadyTenant, ReadyKey | None]] = {}
        """where each task that runs is counted."""
        self._waiting: dict[str, Head] = {}
        self._queues: dict[QueueKey, ReadyQueue] = {}
        self._limits: Mapping[QueueKey, Limits] = {}
        self._hungry: set[KeyName] = set()
        self._low: set[LaneKey] = set()
        self._number = 0

    @property
    def waits(self) -> bool:
        """Whether anything waits, as far as is known, or is to be read."""
        return bool(self._waiting or self._hungry or self._low)

    def limit(self, limits: Mapping[QueueKey, Limits]) -> None:
        """Has these limits from now on; queues that are not among them have none."""
        self._limits = limits
        for key, limit in limits.items():
            if limit.rate_per_second is not None:
                # Its bucket fills before the first task comes.
                self._queue(key)
        for key, queue in self._queues.items():
            new = limits.get(key, Limits())
            if new == queue.limits:
                continue
            queue.limit(new)
            for name, tenant in queue.tenants.items():
                tenant.account.weigh(queue.weights.get(name, 1.0))
                if tenant.listed:
                    queue.list(tenant)
            for name in list(queue.keys):
                self._unpark(queue, name, every=True)

    def see(self, asked: Iterable[str], found: Sequence[Seen]) -> None:
        """Takes note of how tasks are in the table; those that were asked for and not found have ended."""
        there = {seen.head.task_id for seen in found}
        for task_id in asked:
            if task_id not in there:
                self._finish(task_id)
                self._forget(task_id)
        for seen in found:
            task_id = seen.head.task_id
            running = self.running.get(task_id)
            if running is not None and seen.head.attempt < running.attempt:
                # Seen before it was started.
                continue
            if seen.running:
                self._forget(task_id)
                if running is None:
                    seen.head.elsewhere = True
                    self.add_running(seen.head, seen.seconds)
                continue
            self._finish(task_id)
            if seen.waiting:
                self.add(seen.head)
            else:
                self._forget(task_id)

    def over(self, task_ids: Iterable[str]) -> None:
        """Takes note of tasks that have ended."""
        for task_id in task_ids:
            self._finish(task_id)
            self._forget(task_id)

    def begin_new(self, lane: LaneKey, task_id: str, key: str | None, priority: int) -> Head | None:
        """A task that is being created starts at once, unless limits or others that wait keep it; it runs from now on."""
        queue = self._queue(lane.of_queue)
        # What waits without being held back starts with the next decision: it has the first claim to what the limits leave.
        if sum(queue.waiting.values()) + 1 > queue.room():
            return None
        # Its position is not known yet, and does not matter while it runs.
        head = Head(task_id, lane, key, (-priority, 0), 1, uncommitted=True)
        if queue.full(head):
            return None
        queue.bucket.spend()
        self._start(queue, head, 0.0)
        return head

    def add(self, head: Head) -> None:
        """Takes in a task that waits, unless its lane's turn has not come so far."""
        if head.task_id in self._waiting or head.task_id in self.running:
            return
        if self._queue(head.lane.of_queue).lane(head).passes(head):
            self._wait(head)

    def add_running(self, head: Head, seconds: float) -> None:
        """Takes in a task that has been running for so long."""
        self._start(self._queue(head.lane.of_queue), head, seconds)

    def add_page(self, page: Page) -> None:
        """Takes in what was read of a lane."""
        lane = self._lane(page.lane)
        if page.heads:
            lane.last = max(lane.last or page.heads[-1].place, page.heads[-1].place)
        lane.more = page.more
        self._low.discard(page.lane)
        for head in page.heads:
            if head.task_id not in self._waiting and head.task_id not in self.running:
                self._wait(head)
        if page.more and len(lane.heads) < _LOW:
            # Nearly all of them wait for their keys.
            self._low.add(page.lane)

    def add_of_key(self, name: KeyName, heads: Sequence[Head]) -> None:
        """Takes in the first tasks that wait for a key; as many as OF_KEY when there may be more."""
        queue = self._queue(name[0])
        queue.key_of(name[1]).more = len(heads) >= OF_KEY
        for head in heads:
            self.add(head)

    def low(self) -> list[tuple[LaneKey, Place]]:
        """Lanes of which more should be read, and from where on."""
        return [(key, last) for key in self._low if (last := self._lane(key).last) is not None]

    def hungry(self) -> list[KeyName]:
        """Keys that have room, for which tasks wait that only the table knows; they count as asked for from now on."""
        hungry, self._hungry = list(self._hungry), set()
        return hungry

    def take(self, wants: Iterable[Want[Any]], most: int) -> list[tuple[Head, Want[Any], str]]:
        """The next tasks to start, which count as running from now on, each with its slot: the want and the worker."""
        book = DemandBook(wants)
        aside: list[tuple[ReadyQueue, ReadyTenant]] = []
        # The next task of each queue, out of its lane: the first of them is the next of all.
        order: list[tuple[int, Place, int, ReadyQueue, Head]] = []

        def draw(queue: ReadyQueue) -> None:
            head = self._next(queue, book, aside)
            if head is not None:
                self._number += 1
                heapq.heappush(order, (-queue.limits.priority, head.place, self._number, queue, head))

        for queue in self._queues.values():
            if queue.waiting:
                draw(queue)
        taken: list[tuple[Head, Want[Any], str]] = []
        while order and len(taken) < most:
            *_, queue, head = heapq.heappop(order)
            want = book.find(head.lane.kind, head.lane.tenant_id, head.lane.queue)
            if want is None:
                # The last slot for it has gone to a task of another queue.
                queue.enter(head)
            else:
                taken.append((head, want, want.take()))
                self._begin(queue, head)
            draw(queue)
        for *_, queue, head in order:
            queue.enter(head)
        for queue, tenant in aside:
            if not tenant.listed and tenant.waits():
                queue.list(tenant)
        return taken

    def give_back(self, head: Head) -> None:
        """A task that was taken did not start and may still wait: it is to be looked at again."""
        if self.running.get(head.task_id) is head:
            queue, tenant = self._end(head)
            queue.charge(tenant, -head.charged)
            queue.bucket.give_back(queue.limits)

    def tick(self) -> None:
        """Charges those whose tasks run longer than usual."""
        now = self._clock()
        for head in self.running.values():
            due = now - head.started
            if due > head.charged:
                queue, tenant, _ = self._counted[head.task_id]
                queue.charge(tenant, due - head.charged)
                head.charged = due

    def startable(self, demand: Demand, most: int) -> tuple[int, int]:
        """How many tasks could start on slots of this demand, counted up to `most`, and the highest priority of their queues."""
        total, priority = 0.0, 0
        for (_, name), queue in self._queues.items():
            if not queue.waiting or (demand.queues and name not in demand.queues):
                continue
            waiting = sum(queue.waiting[kind] for kind in demand.kinds if kind in queue.waiting)
            if not waiting:
                continue
            if demand.tenant_id is not None:
                tenant = queue.tenants.get(demand.tenant_id)
                lanes = {} if tenant is None else tenant.lanes
                waiting = sum(len(lanes[kind].heads) for kind in demand.kinds if kind in lanes)
            if room := min(waiting, queue.room()):
                total, priority = total + room, max(priority, queue.limits.priority)
        return min(most, int(total)), priority

    def pause(self) -> float | None:
        """Seconds until a rate lets something start; None when none is waited for."""
        pauses = [
            queue.bucket.pause(queue.limits) for queue in self._queues.values() if queue.waiting and not queue.limits.paused
        ]
        return min((pause for pause in pauses if pause is not None), default=None)

    def usage(self) -> dict[QueueKey, tuple[int, set[str]]]:
        """Of each queue how many tasks run, and the tenants of which a task waits or runs."""
        used = {
            key: (queue.running, {name for name, tenant in queue.tenants.items() if tenant.waits()})
            for key, queue in self._queues.items()
        }
        for head in self.running.values():
            used[head.lane.of_queue][1].add(head.lane.tenant_id)
        for key, queue in self._queues.items():
            for each in queue.keys.values():
                used[key][1].update(head.lane.tenant_id for head in each.parked)
        return used

    def doubtful(self, moment: float) -> list[str]:
        """The tasks that seem to have been running since before a moment of the clock, or were started by another way.

        Of the end of the latter nobody may tell: their schedulers do not know that they are decided on. Those whose creation is
        under way are not among them: a look would not find them, as if they had ended.
        """
        return [
            task_id
            for task_id, head in self.running.items()
            if (head.started < moment or head.elsewhere) and not head.uncommitted
        ]

    def prune(self) -> None:
        """Forgets tenants and queues of which nothing waits or runs."""
        for key, queue in list(self._queues.items()):
            queue.prune()
            if not queue.tenants and not queue.keys and queue.limits.rate_per_second is None:
                del self._queues[key]

    def _next(self, queue: ReadyQueue, book: DemandBook[Any], aside: list[tuple[ReadyQueue, ReadyTenant]]) -> Head | None:
        """The next task of a queue that has a slot, out of its lane; None when there is none now."""
        if held := queue.held():
            self.throttled[queue.key[1], held] += 1
            return None
        while queue.order:
            at, version, _, tenant = queue.order[0]
            if version != tenant.version:
                heapq.heappop(queue.order)
                continue
            if tenant.account.tag > at:
                heapq.heappop(queue.order)
                queue.list(tenant)
                continue
            found = self._first(queue, tenant, book)
            if found is None:
                heapq.heappop(queue.order)
                tenant.listed = False
                if tenant.waits():
                    aside.append((queue, tenant))
                continue
            heapq.heappop(queue.order)
            tenant.listed = False
            queue.virtual_time = max(queue.virtual_time, at)
            if tenant.waits():
                queue.list(tenant)
            return found
        return None

    def _first(self, queue: ReadyQueue, tenant: ReadyTenant, book: DemandBook[Any]) -> Head | None:
        """The first task of a tenant that has a slot and whose key has room, out of its lane."""
        wants = {}
        while True:
            best: tuple[Head, str] | None = None
            for kind, lane in tenant.lanes.items():
                if not lane.heads or (best is not None and best[0].place < lane.heads[0].place):
                    continue
                if kind not in wants:
                    wants[kind] = book.find(kind, lane.heads[0].lane.tenant_id, queue.key[1])
                if wants[kind] is not None:
                    best = lane.heads[0], kind
            if best is None:
                return None
            head, kind = best
            self._pop(queue, tenant, kind)
            if not queue.full(head):
                return head
            self.throttled[queue.key[1], "max_running_per_key"] += 1
            self._park(queue, head)

    def _pop(self, queue: ReadyQueue, tenant: ReadyTenant, kind: str) -> None:
        lane = tenant.lanes[kind]
        head = heapq.heappop(lane.heads)
        queue.left(kind)
        if lane.more and len(lane.heads) < _LOW:
            self._low.add(head.lane)

    def _begin(self, queue: ReadyQueue, head: Head) -> None:
        """A task that waited starts now."""
        del self._waiting[head.task_id]
        head.attempt += 1
        queue.bucket.spend()
        self._start(queue, head, 0.0)

    def _start(self, queue: ReadyQueue, head: Head, seconds: float) -> None:
        tenant = queue.tenant(head.lane.tenant_id)
        key = None if head.key is None else queue.key_of(head.key)
        queue.running += 1
        tenant.running += 1
        if key is not None:
            key.running += 1
        head.started = self._clock() - seconds
        head.charged = max(tenant.account.estimate, seconds)
        tenant.account.charge(head.charged)
        self.running[head.task_id] = head
        self._counted[head.task_id] = queue, tenant, key

    def _finish(self, task_id: str) -> None:
        """A task runs no more, if it did."""
        head = self.running.get(task_id)
        if head is None:
            return
        seconds = self._clock() - head.started
        queue, tenant = self._end(head)
        queue.charge(tenant, seconds - head.charged)
        tenant.account.learn(seconds)

    def _end(self, head: Head) -> tuple[ReadyQueue, ReadyTenant]:
        del self.running[head.task_id]
        queue, tenant, key = self._counted.pop(head.task_id)
        queue.running -= 1
        tenant.running -= 1
        if key is not None and head.key is not None:
            key.running -= 1
            if key.parked or key.more or not key.running:
                self._unpark(queue, head.key)
        return queue, tenant

    def _wait(self, head: Head) -> None:
        queue = self._queue(head.lane.of_queue)
        self._waiting[head.task_id] = head
        if queue.full(head):
            self._park(queue, head)
        else:
            queue.enter(head)

    def _park(self, queue: ReadyQueue, head: Head) -> None:
        """Puts a task aside until its key has room; of many the table remembers."""
        key = queue.key_of(str(head.key))
        heapq.heappush(key.parked, head)
        if len(key.parked) > OF_KEY:
            last = max(key.parked)
            key.parked.remove(last)
            heapq.heapify(key.parked)
            del self._waiting[last.task_id]
            key.more = True

    def _unpark(self, queue: ReadyQueue, name: str, *, every: bool = False) -> None:
        """Gives the first task that waits for a key another try, or all of them."""
        key = queue.keys[name]
        parked = len(key.parked) if every else 1
        for _ in range(min(parked, len(key.parked))):
            queue.enter(heapq.heappop(key.parked))
        if not key.parked:
            if key.more:
                key.more = False
                self._hungry.add((queue.key, name))
            elif not key.running:
                del queue.keys[name]

    def _forget(self, task_id: str) -> None:
        """A task waits no more, and was not taken."""
        head = self._waiting.pop(task_id, None)
        if head is not None:
            self._queue(head.lane.of_queue).drop(head)

    def _queue(self, key: QueueKey) -> ReadyQueue:
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = ReadyQueue(key, self._limits.get(key, Limits()), self._clock)
        return queue

    def _lane(self, key: LaneKey) -> ReadyLane:
        return self._queue(key.of_queue).tenant(key.tenant_id).lanes.setdefault(key.kind, ReadyLane())
