"""Sends what waits in a lane: each task's events one after the other, many tasks side by side.

What a receiver has taken is recorded after it has, so whoever comes after a crash sends some of it again with the same ids; an
event is sent only when the one before it was taken or given up for good. So what a receiver sees for the first time is in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from prometheus_client import Counter, Histogram

from services.common.errors import DomainError
from services.common.failpoints import fail_point
from services.scheduler.adapters.webhook_event import outgoing_event
from services.scheduler.domain.webhook import Delivered
from services.scheduler.domain.webhook_endpoint import RetryRules
from services.scheduler.domain.webhook_ports import EventSender
from services.scheduler.webhooks.health import Health
from services.scheduler.webhooks.registry import Known, Registry
from services.scheduler.webhooks.waiting import LaneLost, Line, Tried, Waiting

log = structlog.get_logger(__name__)

deliveries = Counter("guildmesh_webhook_deliveries", "Tries to deliver an event to a receiver.", ["outcome"])
delay = Histogram(
    "guildmesh_webhook_delay_seconds",
    "From an event to its delivery.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86400),
)

_LOOK_SECONDS = 0.25
_SEARCH_SECONDS = 2.0
_LONGEST_PAUSE = 2.0


@dataclass(frozen=True, slots=True)
class Places:
    """How many deliveries may be under way, over all lanes of this process."""

    total: asyncio.Semaphore
    of_tenant: Callable[[str], asyncio.Semaphore]


class Delivery:
    """The sending of one lane."""

    def __init__(
        self,
        registry: Registry,
        waiting: Waiting,
        sender: EventSender,
        health: Health,
        rules: RetryRules,
        places: Places,
        most_at_once: int,
        holds: Callable[[], bool],
        counts: dict[str, int],
    ) -> None:
        """At most `most_at_once` events go to one receiver, and none while the lane may be another's (`holds`)."""
        self._registry = registry
        self._waiting = waiting
        self._sender = sender
        self._health = health
        self._rules = rules
        self._places = places
        self._most = most_at_once
        self._holds = holds
        self._counts = counts
        self._in_line: set[str] = set()
        self._added: set[str] = set()
        """those that were added since the last search began, which may not have seen what waits for them."""
        self._busy: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._tried: list[Tried] = []
        self._wanted = asyncio.Event()
        self._searched = 0.0

    def added(self, uid: str) -> None:
        """Hears that something waits for a webhook."""
        self._in_line.add(uid)
        self._added.add(uid)
        self._wanted.set()

    async def run(self) -> None:
        """Sends until cancelled; survives the database being away, and raises LaneLost."""
        await self._registry.ready()
        pause = 0.1
        try:
            while True:
                try:
                    await self._turn()
                    pause = 0.1
                except DomainError as error:
                    log.warning("deliveries_not_recorded", error=str(error), retry_in=pause)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            for task in self._busy.values():
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)
            with contextlib.suppress(LaneLost, DomainError, TimeoutError):
                async with asyncio.timeout(_LONGEST_PAUSE):
                    await self._record()

    async def _turn(self) -> None:
        self._wanted.clear()
        await self._record()
        now = asyncio.get_running_loop().time()
        if now - self._searched >= _SEARCH_SECONDS:
            self._added = set()
            self._in_line = await self._waiting.in_line(list(self._registry.all)) | self._added
            self._searched = now
        if self._holds():
            await self._start(now)
        pause = (_LOOK_SECONDS if self._in_line else _SEARCH_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        # Not wait_for, which before Python 3.12 loses a cancellation that comes with what it waits for.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wanted.wait()

    async def _start(self, now: float) -> None:
        """Begins with lines whose time has come, as many as the receivers may have."""
        under_way: dict[str, int] = {}
        for uid, _ in self._busy:
            under_way[uid] = under_way.get(uid, 0) + 1
        free: dict[str, int] = {}
        for uid in self._in_line:
            known = self._registry.all.get(uid)
            # What is sealed waits, as if it were paused: its receiver has no part in it.
            if known is not None and not known.webhook.paused and not known.webhook.sealed:
                number = min(known.endpoint.free(now), self._most - under_way.get(uid, 0))
                if number > 0:
                    free[uid] = number
        if not free:
            return
        lines = await self._waiting.due(free, self._busy.keys())
        if not lines:
            return
        await self._waiting.fill(
            lines, {uid: self._registry.all[uid].webhook.tenant_id for uid in free if uid in self._registry.all}
        )
        for line in lines:
            known = self._registry.all.get(line.uid)
            # Another lane may have taken the place meanwhile.
            if known is not None and known.endpoint.free(asyncio.get_running_loop().time()) > 0:
                known.endpoint.in_flight += 1
                self._busy[line.uid, line.task_id] = asyncio.create_task(self._send(known, line))

    async def _send(self, known: Known, line: Line) -> None:
        """Sends the events of a line until one is refused."""
        tried = Tried(known.webhook.tenant_id, line, [], attempts=line.attempts)
        endpoint = known.endpoint
        try:
            async with self._places.of_tenant(tried.tenant_id), self._places.total:
                for number, event, traceparent in line.events:
                    current = self._registry.all.get(line.uid)
                    if current is None or current.endpoint is not endpoint or not self._holds():
                        break
                    webhook = current.webhook
                    if webhook.paused or webhook.sealed:
                        break
                    outgoing = outgoing_event(event, traceparent)
                    delivered = await self._sender.send(webhook.url, webhook.secrets_at(datetime.now(UTC)), outgoing)
                    await fail_point("webhooks.send.after_answer")
                    self._tell(current, delivered)
                    if not delivered.taken:
                        self._refused(current, delivered, tried, number)
                        break
                    tried.taken.append(number)
                    tried.attempts = 0
                    deliveries.labels("delivered").inc()
                    delay.observe(max(0.0, time.time() - outgoing.time))
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("delivery_failed", webhook=known.webhook.webhook_id, task=line.task_id)
            tried.pause = _LONGEST_PAUSE
        finally:
            endpoint.in_flight -= 1
            self._tried.append(tried)
            self._wanted.set()

    def _refused(self, known: Known, delivered: Delivered, tried: Tried, number: int) -> None:
        """Decides when an event that was refused is tried again, if it is."""
        deliveries.labels("refused").inc()
        if known.endpoint.closed or delivered.retry_after is not None or delivered.gone:
            # It is the receiver, not the event, and the endpoint says when it is tried again: another line may then go first.
            return
        tried.attempts += 1
        if tried.attempts < self._rules.most_attempts:
            tried.pause = self._rules.pause(tried.attempts)
            return
        deliveries.labels("given_up").inc()
        tried.given_up = number, delivered.status_code, delivered.error

    def _tell(self, known: Known, delivered: Delivered) -> None:
        changed = known.endpoint.told(delivered, asyncio.get_running_loop().time())
        if delivered.gone:
            known.webhook.paused = True
            self._health.gone(known.uid, delivered.error)
        elif changed:
            log.info("webhook_state", webhook=known.webhook.webhook_id, failing=known.endpoint.closed, error=delivered.error)
            self._health.changed(known.uid, delivered.error if known.endpoint.closed else None)
        elif delivered.taken and known.webhook.failing_since is not None:
            known.webhook.failing_since = None
            self._health.changed(known.uid, None)

    async def _record(self) -> None:
        """Keeps what came of all lines that are through."""
        if not self._tried:
            return
        tried, self._tried = self._tried, []
        try:
            await self._waiting.record(tried)
        except BaseException:
            self._tried = tried + self._tried
            raise
        for each in tried:
            self._busy.pop((each.line.uid, each.line.task_id), None)
            self._counts[each.line.uid] = max(0, self._counts.get(each.line.uid, 0) - len(each.taken) - bool(each.given_up))


def tenant_places(most: int) -> Callable[[str], asyncio.Semaphore]:
    """A semaphore for each tenant."""
    places: dict[str, asyncio.Semaphore] = {}

    def of(tenant_id: str) -> asyncio.Semaphore:
        return places.setdefault(tenant_id, asyncio.Semaphore(most))

    return of
