"""A second reader of a topic, for webhooks that are behind their lane."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime

import structlog

from services.scheduler.domain.errors import WatchPositionExpired
from services.scheduler.domain.event_topic_ports import EventTopic, Record, TopicReader
from services.scheduler.domain.positions import Positions

log = structlog.get_logger(__name__)

MOST_RECORDS = 500
_CATCH_UP_SECONDS = 0.25


class Aside:
    """Open from when it is needed until it is closed; every method but that raises DependencyUnavailable."""

    def __init__(self, topic: EventTopic, partitions: Sequence[int]) -> None:
        self._topic = topic
        self._partitions = partitions
        self._stack = AsyncExitStack()
        self._reader: TopicReader | None = None
        self._at: Positions | None = None

    async def at(self, moment: datetime) -> Positions:
        """Where the events begin that were published at a moment or later."""
        return await (await self._asked()).at(moment)

    async def bounds(self) -> tuple[Positions, Positions]:
        """Where what is kept begins, and where it ends."""
        return await (await self._asked()).bounds()

    async def newest(self) -> datetime | None:
        """When the newest record was published, if there is one."""
        reader = await self._asked()
        self._at = None
        return await reader.newest()

    async def read(self, place: Positions) -> tuple[Sequence[Record], Positions, bool]:
        """A page from a place on, the place behind it, and whether something between is no longer kept."""
        reader = await self._open()
        if self._at != place:
            reader.seek(place)
        self._at = None
        try:
            records, self._at = await reader.read(MOST_RECORDS, _CATCH_UP_SECONDS)
        except WatchPositionExpired:
            return (), await begin(reader, place), True
        return records, self._at, False

    async def close(self) -> None:
        """Closes it, if it is open."""
        self._reader = self._at = None
        await self._stack.aclose()

    async def _asked(self) -> TopicReader:
        reader = await self._open()
        reader.rest()
        return reader

    async def _open(self) -> TopicReader:
        if self._reader is None:
            self._reader = await self._stack.enter_async_context(self._topic.open(self._partitions))
        return self._reader


async def begin(reader: TopicReader, place: Positions) -> Positions:
    """Where to go on from a place that the topic no longer has, or never had."""
    first, last = await reader.bounds()
    log.warning("events_missed", place=place, begin=first, end=last)
    return tuple(mine if low <= mine <= high else low for mine, low, high in zip(place, first, last, strict=True))
