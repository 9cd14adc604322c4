"""The loops of the relay: one that keeps its lanes, one a lane that publishes."""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from aiokafka.errors import KafkaError
from prometheus_client import Counter, Gauge

from services.common.errors import DomainError
from services.common.lanes import Ownership
from services.scheduler.adapters.topics import ensure_topics
from services.scheduler.domain.shards import SHARDS, lane_of
from services.scheduler.domain.wake import Wake
from services.scheduler.relay.outbox import Outbox, OutboxBatch
from services.scheduler.relay.publisher import Publisher, open_publisher
from services.scheduler.relay.settings import RelaySettings

log = structlog.get_logger(__name__)

published = Counter("guildmesh_relay_events", "Events that Kafka acknowledged.")
lanes_held = Gauge("guildmesh_relay_lanes", "Lanes that this relay publishes.")

_PUBLISH_SECONDS = 10.0
# What follows a first event follows at once (a task that starts, one that is done), so a lane that was woken waits this long: a
# second transaction for the end of a short task costs as much processor as the task itself, while somebody waits for its result.
_LINGER_SECONDS = 0.005
# A transaction costs Kafka and us the same whatever is in it, so a busy lane gathers before the next: a flush of _MANY records
# that left nothing behind is followed by a pause, the longer the more there were, which ends once nothing more comes. At 500
# tasks a second no flush is that large.
_MANY = 100
_GATHERED_PER_SECOND = 2500
_LONGEST_GATHER_SECONDS = 0.5
_QUIET_SECONDS = 0.05
_LONGEST_PAUSE = 2.0
_TROUBLE = (KafkaError, DomainError, OSError, TimeoutError)


class Relay:
    """Publishes the lanes that it owns."""

    def __init__(self, settings: RelaySettings, outbox: Outbox, ownership: Ownership) -> None:
        self._settings = settings
        self._outbox = outbox
        self._ownership = ownership
        self._lanes: dict[int, _Lane] = {}
        self._wanted = asyncio.Event()

    def woken(self, wake: Wake) -> None:
        """Hears of a commit."""
        for lane in self._lanes.values():
            if wake.shards & lane.shards:
                lane.wanted.set()

    def has_first_lane(self) -> bool:
        """Whether this is the one relay of all that has lane 0."""
        return 0 in self._lanes and self._ownership.valid()

    async def run(self) -> None:
        """Publishes until cancelled; survives Kafka and PostgreSQL being away."""
        try:
            await ensure_topics(self._settings)
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
            await self._stop(list(self._lanes))
            with contextlib.suppress(DomainError, TimeoutError):
                async with asyncio.timeout(2):
                    await self._ownership.leave()

    def _take(self, owned: dict[int, int]) -> None:
        """Starts what is new and stops what is lost; a lane that came back under another epoch is opened anew."""
        for number, lane in list(self._lanes.items()):
            if owned.get(number) != lane.epoch or lane.task.done():
                lane.task.cancel()
                del self._lanes[number]
        for number, epoch in owned.items():
            if number not in self._lanes:
                self._lanes[number] = _Lane(number, epoch, self._settings, self._outbox, self._ownership)

    async def _stop(self, numbers: list[int]) -> None:
        tasks = [self._lanes.pop(number).task for number in numbers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Lane:
    def __init__(self, number: int, epoch: int, settings: RelaySettings, outbox: Outbox, ownership: Ownership) -> None:
        self.number = number
        self.epoch = epoch
        self.shards = sum(1 << shard for shard in range(SHARDS) if lane_of(shard) == number)
        self.wanted = asyncio.Event()
        self._settings = settings
        self._outbox = outbox
        self._ownership = ownership
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        pause = 0.1
        while True:
            try:
                if not await self._ownership.holds(self.number, self.epoch):
                    log.info("lane_lost", lane=self.number, epoch=self.epoch)
                    return
                async with open_publisher(self._settings, self.number) as publisher:
                    log.info("lane_opened", lane=self.number, epoch=self.epoch)
                    while True:
                        await self._flush(publisher)
                        pause = 0.1
            except _TROUBLE as error:
                log.warning("lane_failed", lane=self.number, error=repr(error), retry_in=pause)
            except Exception:
                log.exception("lane_failed", lane=self.number, retry_in=_LONGEST_PAUSE)
                pause = _LONGEST_PAUSE
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _flush(self, publisher: Publisher) -> None:
        """Publishes what there is, or waits for something."""
        if not self._ownership.valid():
            # PostgreSQL does not answer, so another relay may have the lane; Kafka would fence this one, but why try.
            await asyncio.sleep(0.1)
            return
        self.wanted.clear()
        batch = await self._outbox.read(self.number)
        if not batch.positions:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.poll_seconds):
                    await self.wanted.wait()
                await asyncio.sleep(_LINGER_SECONDS)
            return
        async with asyncio.timeout(_PUBLISH_SECONDS):
            await publisher.publish(batch.records)
        published.inc(len(batch.records))
        await self._delete(batch)
        if len(batch.records) >= _MANY and not batch.full:
            await self._gather(min(_LONGEST_GATHER_SECONDS, len(batch.records) / _GATHERED_PER_SECOND))

    async def _gather(self, seconds: float) -> None:
        """Waits for more to come, as long as it does; what is there then is read next, so no wake-up is missed."""
        while seconds > 0:
            self.wanted.clear()
            await asyncio.sleep(min(seconds, _QUIET_SECONDS))
            if not self.wanted.is_set():
                return
            seconds -= _QUIET_SECONDS

    async def _delete(self, batch: OutboxBatch) -> None:
        """Deletes what was published, however long PostgreSQL is away: reading it again would publish it again."""
        pause = 0.1
        while True:
            try:
                await self._outbox.delete(batch)
                return
            except DomainError as error:
                log.warning("outbox_not_deleted", lane=self.number, error=str(error), retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
