"""WatchTasks and StreamEvents: the events of all tasks of a tenant that meet a filter, from any place on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from services.common.errors import TokenExpired, Unavailable
from services.scheduler.domain.event_topic_ports import EventTopic
from services.scheduler.domain.ports import TaskReader
from services.scheduler.domain.positions import Positions, encode_positions, reaches
from services.scheduler.domain.published import EventFilter, Published
from services.scheduler.usecases.event_tail import Channel, EventTail
from services.scheduler.usecases.topic_pages import TopicPages

_PAGE = 200
_MOST_REMEMBERED = 5000
_MOST_LEFT_OUT = 1 << 20
"""bytes of texts that are read from the log at once, but for a single event."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An event, or only how far the stream is."""

    event: Published | None
    positions: Positions

    @property
    def token(self) -> str:
        """The resume token of the place behind it."""
        return encode_positions(self.positions)


class WatchTasks:
    """Hands on what the tail of the topic brings; a watcher that is behind it reads the topic itself, until it is not.

    A slow watcher holds one page and little else: what it has not taken yet stays in the topic.
    """

    def __init__(self, tail: EventTail, pages: TopicPages, topic: EventTopic, reader: TaskReader, keep_alive: float) -> None:
        """Says how far a stream is after `keep_alive` seconds without an event."""
        self._tail = tail
        self._pages = pages
        self._topic = topic
        self._reader = reader
        self._keep_alive = keep_alive

    async def execute(
        self, tenant_id: str, wanted: EventFilter, start: Positions | datetime | None, ends: float | None
    ) -> AsyncGenerator[Seen]:
        """Gives the events behind `start` (or from now on), until `ends` by the loop's clock.

        Raises:
            WatchPositionExpired: what follows the place is no longer kept.
            DependencyUnavailable: Kafka does not answer.
            TokenExpired: it is `ends`.
        """
        async with self._tail.watching(tenant_id, wanted) as (channel, changed):
            if isinstance(start, datetime):
                start = await self._pages.at(start)
            position = list(start or self._tail.now)
            chosen = _Chosen(self._reader, tenant_id, wanted)
            place = _place_in(channel, position)
            if place is None or not reaches(self._tail.now, position):
                await self._pages.check(tuple(position))
            yield Seen(None, tuple(position))
            while True:
                if ends is not None and asyncio.get_running_loop().time() >= ends:
                    raise TokenExpired
                changed.clear()
                if place is None or place < channel.first:
                    place = _place_in(channel, position)
                if place is not None:
                    found, place = channel.after(place, _PAGE)
                    # What was read before the channel began to hold it.
                    events = [event for event in found if event.offset >= position[event.partition]]
                    reached = self._tail.newest if place == channel.end else None
                else:
                    events, reached = await self._behind(tenant_id, wanted, tuple(position))
                for part in _parts(await chosen.of(events)):
                    for event in await self._whole(tenant_id, part):
                        position[event.partition] = event.offset + 1
                        yield Seen(event, tuple(position))
                for event in events:
                    position[event.partition] = max(position[event.partition], event.offset + 1)
                if reached is not None:
                    position = _further(position, reached)
                if place is None or place < channel.end:
                    continue
                left = self._keep_alive if ends is None else min(self._keep_alive, ends - asyncio.get_running_loop().time())
                try:
                    async with asyncio.timeout(left):
                        await changed.wait()
                except TimeoutError:
                    # Also where only others' events came: else the place would become too old.
                    if place == channel.end:
                        position = _further(position, self._tail.newest)
                    yield Seen(None, tuple(position))

    async def _behind(self, tenant_id: str, wanted: EventFilter, position: Positions) -> tuple[list[Published], Positions | None]:
        """The next events of a watcher that is behind, and how far they lead."""
        try:
            records, reached = await self._pages.read(position)
        except Unavailable:
            # A stream that has begun outlives a restart of Kafka.
            await asyncio.sleep(0.5)
            return [], None
        mine = (self._topic.parse(record) for record in records if record.tenant_id == tenant_id)
        return [event for event in mine if wanted.meets(event)], reached

    async def _whole(self, tenant_id: str, events: Sequence[Published]) -> Sequence[Published]:
        """The events with the texts that are not on the topic; one of a task that is no longer kept stays as it is."""
        reduced = [(event.task_id, event.number) for event in events if event.left_out]
        if not reduced:
            return events
        while True:
            try:
                found = await self._reader.whole(tenant_id, reduced)
                break
            except Unavailable:
                await asyncio.sleep(0.5)
        return [
            replace(event, value=found[key], left_out=0) if (key := (event.task_id, event.number)) in found else event
            for event in events
        ]


def _parts(events: Sequence[Published]) -> Iterator[Sequence[Published]]:
    """The events in order, in parts of which not too much is read from the log at once."""
    begin = size = 0
    for place, event in enumerate(events):
        if size and size + event.left_out > _MOST_LEFT_OUT:
            yield events[begin:place]
            begin, size = place, 0
        size += event.left_out
    if begin < len(events):
        yield events[begin:]


def _further(position: Sequence[int], other: Positions) -> list[int]:
    """The further one of two places in each partition; the other is empty while the topic is not read."""
    return [max(mine, theirs) for mine, theirs in zip(position, other, strict=True)] if other else list(position)


def _place_in(channel: Channel, position: Sequence[int]) -> int | None:
    """Where in a channel a watcher goes on that is at a place of the topic; None when it is behind it."""
    return channel.first if channel.covers(position) else None


class _Chosen:
    """Which events are of tasks that meet the conditions on tasks; these never change, so each task is looked at once."""

    def __init__(self, reader: TaskReader, tenant_id: str, wanted: EventFilter) -> None:
        self._reader = reader
        self._tenant_id = tenant_id
        self._wanted = wanted
        self._known: dict[str, bool] = {}

    async def of(self, events: Sequence[Published]) -> Sequence[Published]:
        """Those of the events."""
        if not self._wanted.of_tasks or not events:
            return events
        unknown = {event.task_id for event in events} - self._known.keys()
        while unknown:
            try:
                met = set(await self._reader.meeting(self._tenant_id, unknown, self._wanted.of_tasks))
            except Unavailable:
                await asyncio.sleep(0.5)
                continue
            if len(self._known) + len(unknown) > _MOST_REMEMBERED:
                self._known = {event.task_id: self._known[event.task_id] for event in events if event.task_id in self._known}
            self._known |= {task_id: task_id in met for task_id in unknown}
            break
        return [event for event in events if self._known[event.task_id]]
