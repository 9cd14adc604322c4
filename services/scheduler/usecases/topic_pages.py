"""Pages of the events topic from any place on, for watchers that are behind its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime

from services.scheduler.domain.errors import WatchPositionExpired
from services.scheduler.domain.event_topic_ports import EventTopic, Record, TopicReader
from services.scheduler.domain.positions import Positions, reaches

_READERS = 2
_MOST_RECORDS = 500
_MOST_BYTES = 128 << 10
_READ_SECONDS = 0.1
_IDLE_SECONDS = 30.0


class TopicPages:
    """A few readers for all who are behind, each for one page at a time, so that none of them keeps it from the others.

    That bounds the connections to Kafka, and what is held of it.
    """

    def __init__(self, topic: EventTopic) -> None:
        self._topic = topic
        self._places = asyncio.Semaphore(_READERS)
        self._free: list[_Open] = []
        self._closing: set[asyncio.Task[None]] = set()

    async def at(self, moment: datetime) -> Positions:
        """Where the events begin that were published at a moment or later; raises DependencyUnavailable."""
        async with self._reader(None) as each:
            return await each.reader.at(moment)

    async def check(self, positions: Positions) -> None:
        """Raises WatchPositionExpired when nothing can be read from a place, DependencyUnavailable when Kafka does not answer."""
        async with self._reader(None) as each:
            begin, end = await each.reader.bounds()
        if not reaches(positions, begin) or not reaches(end, positions):
            raise WatchPositionExpired

    async def read(self, positions: Positions) -> tuple[Sequence[Record], Positions]:
        """The next records behind a place, if there are any, and the place behind them.

        Raises:
            WatchPositionExpired: what follows the place is no longer kept, or it was never reached.
            DependencyUnavailable: Kafka does not answer.
        """
        async with self._reader(positions) as each:
            if each.at != positions:
                each.reader.seek(positions)
            each.at = None
            records, reached = await each.reader.read(_MOST_RECORDS, _READ_SECONDS)
            page = _page(records)
            if page < len(records):
                return records[:page], _before(records[page:], reached)
            each.at = reached
            return records, reached

    async def close(self) -> None:
        """Closes the readers."""
        for each in list(self._free):
            self._let_go(each)
        if self._closing:
            await asyncio.wait(self._closing)

    @asynccontextmanager
    async def _reader(self, positions: Positions | None) -> AsyncIterator[_Open]:
        async with self._places:
            each = self._take(positions) if self._free else await self._open()
            try:
                yield each
            except BaseException:
                # In which state it is, is not known.
                self._close(each)
                raise
            self._free.append(each)
            each.timer = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._let_go, each)

    def _take(self, positions: Positions | None) -> _Open:
        """A free reader, if possible one that stands there already."""
        each = next((each for each in self._free if each.at == positions), self._free[0])
        self._free.remove(each)
        if each.timer is not None:
            each.timer.cancel()
        return each

    def _let_go(self, each: _Open) -> None:
        self._free.remove(each)
        if each.timer is not None:
            each.timer.cancel()
        self._close(each)

    def _close(self, each: _Open) -> None:
        closing = asyncio.create_task(each.stack.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _open(self) -> _Open:
        stack = AsyncExitStack()
        return _Open(stack, await stack.enter_async_context(self._topic.open()))


class _Open:
    """An open reader."""

    def __init__(self, stack: AsyncExitStack, reader: TopicReader) -> None:
        self.stack = stack
        self.reader = reader
        self.at: Positions | None = None
        """where it stands, if that is known."""
        self.timer: asyncio.TimerHandle | None = None
        """closes it when nobody needs it for a while."""


def _page(records: Sequence[Record]) -> int:
    """How many of the records are one page: one at least."""
    size = 0
    for place, record in enumerate(records):
        size += len(record.value)
        if place and size > _MOST_BYTES:
            return place
    return len(records)


def _before(left: Sequence[Record], reached: Positions) -> Positions:
    """The place before records that are left for another page."""
    positions = list(reached)
    for record in reversed(left):
        positions[record.partition] = record.offset
    return tuple(positions)
