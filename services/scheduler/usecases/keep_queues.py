"""Which queues one replica decides for: keeps the list, and has their tasks decided on that are not yet."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.scheduler.domain.decision import KnownQueues, QueueDecisions
from services.scheduler.domain.limits import QueueKey

_TOGETHER_SECONDS = 600.0
"""within which two tenants have waited in a queue for it to be shared."""
_IDLE_SECONDS = 30.0
"""after which a queue without limits in which no two tenants wait any more is left to whoever is first."""


_NOBODY: QueueKey = ("", "")
_STEPS = 5
"""of the way through all tasks that are taken at once."""


@dataclass(slots=True)
class _Queue:
    """A queue on the list."""

    since: float
    needed: float
    """when it was last seen to need somebody who decides."""
    walks: list[float] = field(default_factory=list)
    """when all tasks are to be gone through, the earliest first."""
    settled: bool = False


class KeepQueues:
    """The list."""

    def __init__(self, store: QueueDecisions, settle_seconds: float) -> None:
        """`settle_seconds` after a queue is on the list nothing of it can start in another way."""
        self._store = store
        self._settle_seconds = settle_seconds
        self._known: dict[QueueKey, _Queue] = {}
        self._waiting: dict[tuple[str, str], dict[str, float]] = {}
        """tenants by queue and kind: those whose tasks are of different kinds are not in each other's way."""
        self._due: dict[QueueKey, float] = {}
        """queues for which all tasks are gone through, and since when."""
        self._after: str | None = None
        """the task up to which that is done."""
        self._settled: list[QueueKey] = []
        """queues for which it was done for the last time."""
        self.begin()

    def begin(self) -> None:
        """An epoch has begun: what is on the list is looked at anew, and who waits where."""
        self._known, self._settled = {}, []
        self._due, self._after = {_NOBODY: time.monotonic()}, None

    @property
    def busy(self) -> bool:
        """Whether it is on its way through all tasks."""
        return bool(self._due)

    def waits(self, tenant_id: str, queue: str, kind: str) -> None:
        """Tasks of a tenant have come to wait in a queue that nobody decides for."""
        self._waiting.setdefault((queue, kind), {})[tenant_id] = time.monotonic()

    async def keep(self, epoch: int, usage: Mapping[QueueKey, tuple[int, set[str]]]) -> tuple[KnownQueues, list[str]]:
        """Brings the list up to date; gives what is on it, and tasks that are decided on from now on.

        `usage` has of each queue how many tasks run, and whose tasks wait or run. Raises EpochOver.
        """
        known = await self._store.queues()
        together = self._together()
        new = [key for key in known.limited if key not in known.decided]
        if new or together:
            await self._store.decide_on(epoch, new, together)
            known = await self._store.queues()
        now = time.monotonic()
        for key, settled in known.decided.items():
            queue = self._known.get(key)
            if queue is None:
                # A walk soon for what was created just before, one when nothing can be created so any more.
                walks = [] if settled else [now, now + 2, now + self._settle_seconds]
                queue = self._known[key] = _Queue(now, now, walks, settled)
            _, tenants = usage.get(key, (0, set()))
            if key in known.limited or len(tenants) > 1 or queue.walks:
                queue.needed = now
        for key in set(self._known) - set(known.decided):
            del self._known[key]
        changed = await self._walk(now)
        idle = [
            key
            for key, queue in self._known.items()
            if key not in known.limited and queue.needed < now - _IDLE_SECONDS and not usage.get(key, (0, set()))[0]
        ]
        if idle:
            await self._store.release(epoch, idle)
        return known, changed

    async def settle(self, epoch: int) -> None:
        """Notes of which queues nothing can start past their limits: whoever decides knows of all that `keep` has told of."""
        settled, self._settled = self._settled, []
        if settled:
            await self._store.settle(epoch, settled)

    async def _walk(self, now: float) -> list[str]:
        """Goes some way through all tasks when it is time to for some queue; the rest of the way is for the next call."""
        if not self._due:
            self._due = {key: now for key, queue in self._known.items() if queue.walks and queue.walks[0] <= now}
        changed: list[str] = []
        for _ in range(_STEPS if self._due else 0):
            step = await self._store.convert(self._after or "")
            self._after = step.last
            changed += step.changed
            for tenant_id, name, kind in step.waiting:
                self.waits(tenant_id, name, kind)
            if self._after is None:
                self._walked()
                break
        return changed

    def _walked(self) -> None:
        """All tasks have been gone through."""
        due, self._due = self._due, {}
        for key, begun in due.items():
            queue = self._known.get(key)
            if queue is not None:
                queue.walks = [moment for moment in queue.walks if moment > begun]
                if not queue.walks:
                    self._settled.append(key)

    def _together(self) -> Sequence[tuple[str, str]]:
        """Tenants and queues of which several have waited of late and are not decided for."""
        now = time.monotonic()
        found: list[tuple[str, str]] = []
        for key, tenants in list(self._waiting.items()):
            recent = self._waiting[key] = {tenant: at for tenant, at in tenants.items() if at > now - _TOGETHER_SECONDS}
            if len(recent) > 1:
                found += [(tenant, key[0]) for tenant in recent]
            if len(recent) != 1:
                del self._waiting[key]
        return found
