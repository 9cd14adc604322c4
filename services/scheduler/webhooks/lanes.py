"""The loops of the webhook process: one keeps its lanes; of each lane one sends, and one reads for each topic."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from prometheus_client import Gauge

from services.common.errors import DomainError
from services.common.lanes import Ownership
from services.scheduler.domain.event_topic_ports import EventTopics
from services.scheduler.domain.ports import TaskReader
from services.scheduler.domain.shards import LANES, SHARDS, lane_of
from services.scheduler.domain.webhook_ports import EventSender
from services.scheduler.webhooks.delivery import Delivery, Places
from services.scheduler.webhooks.health import Health
from services.scheduler.webhooks.registry import Registry
from services.scheduler.webhooks.routing import Routing, readings
from services.scheduler.webhooks.settings import WebhookSettings
from services.scheduler.webhooks.waiting import LaneLost, Waiting

log = structlog.get_logger(__name__)

lanes_held = Gauge("guildmesh_webhook_lanes", "Lanes whose webhooks this process serves.")

_LONGEST_PAUSE = 2.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What the lanes work with."""

    registry: Registry
    topics: EventTopics
    reader: TaskReader
    sender: EventSender
    health: Health
    places: Places
    open_waiting: Callable[[int, int], Waiting]
    """the tables of a lane under an epoch."""


class Lanes:
    """Serves the lanes that this process owns."""

    def __init__(self, settings: WebhookSettings, ownership: Ownership, tools: Tools) -> None:
        self._settings = settings
        self._ownership = ownership
        self._tools = tools
        self._lanes: dict[int, tuple[int, asyncio.Task[None]]] = {}

    def has_first(self) -> bool:
        """Whether this is the one process of all that has lane 0."""
        return 0 in self._lanes and self._ownership.valid()

    async def run(self) -> None:
        """Serves until cancelled; survives Kafka and PostgreSQL being away."""
        try:
            while True:
                try:
                    self._take(dict(await self._ownership.renew()))
                except DomainError as error:
                    log.warning("lanes_not_renewed", error=str(error))
                except Exception:
                    log.exception("lanes_not_renewed")
                lanes_held.set(len(self._lanes))
                await asyncio.sleep(self._settings.lease_seconds / 3)
        finally:
            tasks = [task for _, task in self._lanes.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(DomainError, TimeoutError):
                async with asyncio.timeout(2):
                    await self._ownership.leave()

    def _take(self, owned: dict[int, int]) -> None:
        """Starts what is new and stops what is lost; a lane that came back under another epoch is opened anew."""
        for number, (epoch, task) in list(self._lanes.items()):
            if owned.get(number) != epoch or task.done():
                task.cancel()
                del self._lanes[number]
        for number, epoch in owned.items():
            if number not in self._lanes:
                self._lanes[number] = epoch, asyncio.create_task(self._serve(number, epoch))

    async def _serve(self, lane: int, epoch: int) -> None:
        pause = 0.1
        lost = False
        while not lost:
            started = asyncio.get_running_loop().time()
            try:
                await self._open(lane, epoch)
            except* LaneLost:
                log.info("lane_lost", lane=lane, epoch=epoch)
                lost = True
            except* DomainError as errors:
                log.warning("lane_failed", lane=lane, error=repr(errors.exceptions[0]), retry_in=pause)
            except* Exception:
                log.exception("lane_failed", lane=lane, retry_in=pause)
            # What else goes wrong at a stop hides it.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
            if asyncio.get_running_loop().time() - started > _LONGEST_PAUSE:
                pause = 0.1
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _open(self, lane: int, epoch: int) -> None:
        """Reads and sends; what waits is sent also while Kafka is away."""
        settings, tools = self._settings, self._tools
        waiting = tools.open_waiting(lane, epoch)
        counts = await waiting.open()
        at_once = max(1, settings.concurrency // LANES)
        delivery = Delivery(
            tools.registry,
            waiting,
            tools.sender,
            tools.health,
            settings.rules,
            tools.places,
            at_once,
            self._ownership.valid,
            counts,
        )
        partitions = [shard for shard in range(SHARDS) if lane_of(shard) == lane]
        most = settings.most_waiting // LANES

        def routing(owner: str) -> Routing:
            reader, added = tools.reader, delivery.added
            return Routing(tools.registry, waiting, tools.topics, owner, reader, partitions, most, counts, added)

        log.info("lane_opened", lane=lane, epoch=epoch)
        async with asyncio.TaskGroup() as group:
            group.create_task(delivery.run())
            group.create_task(self._read(lane, routing))

    async def _read(self, lane: int, routing: Callable[[str], Routing]) -> None:
        """Keeps a reading of each topic whose owner has webhooks, and of no other; raises LaneLost."""
        registry, names = self._tools.registry, self._tools.topics.names
        await registry.ready()
        tasks: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                changed = registry.next_change
                owners = {names.owner(tenant_id) for tenant_id in registry.tenants}
                ended = [tasks.pop(owner) for owner in tasks.keys() - owners]
                for task in ended:
                    task.cancel()
                # Of one owner there are never two.
                await asyncio.gather(*ended, return_exceptions=True)
                for owner in owners - tasks.keys():
                    tasks[owner] = group.create_task(_read_topic(lane, owner, routing(owner)))
                await changed.wait()


async def _read_topic(lane: int, owner: str, routing: Routing) -> None:
    """Reads until cancelled, whatever is away; nobody else is held up when it is this topic alone. Raises LaneLost."""
    pause = 0.1
    with readings.labels("wanted").track_inprogress():
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await routing.run()
            except LaneLost:
                raise
            except DomainError as error:
                log.warning("events_not_read", lane=lane, tenant=owner, error=str(error), retry_in=pause)
            except Exception:
                log.exception("events_not_read", lane=lane, tenant=owner, retry_in=pause)
            if asyncio.get_running_loop().time() - started > _LONGEST_PAUSE:
                pause = 0.1
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
