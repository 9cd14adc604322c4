"""The end of the events topic, read once for all watchers of this process, and handed to those whom an event concerns."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import structlog

from services.common.errors import DependencyUnavailable, DomainError
from services.scheduler.domain.errors import WatchPositionExpired
from services.scheduler.domain.event_topic_ports import EventTopic, Record, TopicReader
from services.scheduler.domain.positions import Positions, reaches
from services.scheduler.domain.published import EventFilter, Published

log = structlog.get_logger(__name__)

_MOST_RECORDS = 2000
_READ_SECONDS = 1.0
_READY_SECONDS = 6.0
_IDLE_SECONDS = 10.0
_MOST_HELD = 1000
_MOST_HELD_BYTES = 256 << 10
# Of all tenants: whoever comes back after a lost connection, or another scheduler's end, mostly missed no more.
_RECENT = timedelta(seconds=10)
_MOST_RECENT_BYTES = 8 << 20
_MOST_REMEMBERED = 50_000
_LONGEST_PAUSE = 2.0


class Channel:
    """The newest events of a tenant that meet a filter, as far as events alone tell; all of its watchers share them."""

    def __init__(self, wanted: EventFilter, base: Sequence[int]) -> None:
        self.first = 0
        """how many were let go: the place of the oldest that is held."""
        self.watchers: set[asyncio.Event] = set()
        self._wanted = wanted
        self._base = list(base)
        self._held: deque[Published] = deque()
        self._bytes = 0

    def put(self, event: Published) -> None:
        """Holds an event if it is wanted, and lets go of the oldest where they are too many."""
        if not self._wanted.meets(event):
            return
        self._held.append(event)
        self._bytes += len(event.value)
        while len(self._held) > 1 and (len(self._held) > _MOST_HELD or self._bytes > _MOST_HELD_BYTES):
            gone = self._held.popleft()
            self._bytes -= len(gone.value)
            self._base[gone.partition] = gone.offset + 1
            self.first += 1
        for changed in self.watchers:
            changed.set()

    def restart(self, base: Sequence[int]) -> None:
        """Holds nothing that is not behind a place, since what came before it was not seen."""
        self.first = self.end
        self._held.clear()
        self._bytes = 0
        self._base = list(base)
        for changed in self.watchers:
            changed.set()

    def covers(self, positions: Sequence[int]) -> bool:
        """Whether all that is wanted behind a place is held, or yet to come."""
        return reaches(positions, self._base)

    def after(self, place: int, most: int) -> tuple[list[Published], int]:
        """At most so many events from a place of the channel on, which is not before `first`, and the place behind them."""
        start = place - self.first
        found = [self._held[index] for index in range(start, min(start + most, len(self._held)))]
        return found, place + len(found)

    @property
    def end(self) -> int:
        """The place behind the newest."""
        return self.first + len(self._held)


class EventTail:
    """Reads while anybody watches. What is published is handed on in the order of each partition, a repeat once."""

    def __init__(self, topic: EventTopic) -> None:
        self._topic = topic
        self._channels: dict[str, dict[EventFilter, Channel]] = {}
        """by tenant."""
        self._users = 0
        self._reading: asyncio.Task[None] | None = None
        self._positioned = asyncio.Event()
        self._begin: Positions = ()
        """the end of the topic when it began to be read: what is before it is not from now on."""
        self._newest: Positions = ()
        self._recent: deque[_Recent] = deque()
        self._recent_base: list[int] = []
        self._recent_bytes = 0
        self._numbers: OrderedDict[str, int] = OrderedDict()
        """the number of the last event of the tasks whose events came last: a relay may publish a stretch again."""

    @property
    def newest(self) -> Positions:
        """The place up to which everything was handed on."""
        return self._newest

    @property
    def now(self) -> Positions:
        """The place behind all that was published before somebody watched."""
        return tuple(map(max, self._newest, self._begin))

    @asynccontextmanager
    async def watching(self, tenant_id: str, wanted: EventFilter) -> AsyncIterator[tuple[Channel, asyncio.Event]]:
        """The channel of a filter, and what is set when it has more; raises DependencyUnavailable."""
        self._users += 1
        try:
            if self._reading is None:
                self._reading = asyncio.create_task(self._read())
            try:
                async with asyncio.timeout(_READY_SECONDS):
                    await self._positioned.wait()
            except TimeoutError as error:
                raise DependencyUnavailable("Kafka cluster") from error
            changed = asyncio.Event()
            channel = self._join(tenant_id, wanted)
            channel.watchers.add(changed)
            try:
                yield channel, changed
            finally:
                channel.watchers.discard(changed)
                if not channel.watchers:
                    self._leave(tenant_id, wanted)
        finally:
            self._users -= 1

    async def close(self) -> None:
        """Reads no more."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _join(self, tenant_id: str, wanted: EventFilter) -> Channel:
        channels = self._channels.setdefault(tenant_id, {})
        if wanted not in channels:
            channel = channels[wanted] = Channel(wanted, self._recent_base)
            for recent in self._recent:
                if recent.record.tenant_id == tenant_id:
                    channel.put(recent.event(self._topic))
        return channels[wanted]

    def _leave(self, tenant_id: str, wanted: EventFilter) -> None:
        channels = self._channels[tenant_id]
        del channels[wanted]
        if not channels:
            del self._channels[tenant_id]

    async def _read(self) -> None:
        pause = 0.1
        while True:
            try:
                async with self._topic.open() as reader:
                    if not self._newest:
                        await self._start(reader)
                    reader.seek(self._newest)
                    idle_since = asyncio.get_running_loop().time()
                    while True:
                        records, place = await reader.read(_MOST_RECORDS, _READ_SECONDS)
                        pause = 0.1
                        self._hand_on(records, place)
                        now = asyncio.get_running_loop().time()
                        if self._users:
                            idle_since = now
                        elif now - idle_since > _IDLE_SECONDS:
                            self._forget()
                            self._reading = None
                            return
            except WatchPositionExpired:
                # Away for longer than the topic keeps. Who watches finds out by itself, since it is behind.
                log.warning("events_missed", place=self._newest)
                self._forget()
            except DomainError as error:
                log.warning("events_not_read", error=str(error), retry_in=pause)
            except Exception:
                log.exception("events_not_read", retry_in=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _start(self, reader: TopicReader) -> None:
        """Begins a little before the end, for those who were there a moment ago."""
        earlier = await reader.at(datetime.now(UTC) - _RECENT)
        _, self._begin = await reader.bounds()
        self._newest, self._recent_base = earlier, list(earlier)
        for channels in self._channels.values():
            for channel in channels.values():
                channel.restart(earlier)
        self._positioned.set()

    def _forget(self) -> None:
        self._positioned.clear()
        self._begin = self._newest = ()
        self._recent.clear()
        self._recent_bytes = 0
        self._numbers.clear()

    def _hand_on(self, records: Sequence[Record], place: Positions) -> None:
        """In one go, so that a channel that is made meanwhile has all of it or nothing."""
        for record in records:
            recent = _Recent(record)
            channels = self._channels.get(record.tenant_id)
            if channels and self._is_repeat(recent.event(self._topic)):
                continue
            self._recent.append(recent)
            self._recent_bytes += len(record.value)
            for channel in channels.values() if channels else ():
                channel.put(recent.event(self._topic))
        while self._recent_bytes > _MOST_RECENT_BYTES:
            gone = self._recent.popleft().record
            self._recent_bytes -= len(gone.value)
            self._recent_base[gone.partition] = gone.offset + 1
        self._newest = place

    def _is_repeat(self, event: Published) -> bool:
        if event.number <= self._numbers.get(event.task_id, 0):
            return True
        self._numbers[event.task_id] = event.number
        self._numbers.move_to_end(event.task_id)
        if len(self._numbers) > _MOST_REMEMBERED:
            self._numbers.popitem(last=False)
        return False


class _Recent:
    """A record that came lately, parsed once somebody watches its tenant."""

    __slots__ = ("_event", "record")

    def __init__(self, record: Record) -> None:
        self.record = record
        self._event: Published | None = None

    def event(self, topic: EventTopic) -> Published:
        """What it says."""
        if self._event is None:
            self._event = topic.parse(self.record)
        return self._event
