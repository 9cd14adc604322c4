"""Takes events out of the topic, a lane's partitions at a time, and keeps those that webhooks want until they are delivered.

One reader serves all webhooks that are with the lane. One that is behind it (new, set back, or with as much waiting as it may
have) reads by itself, a page at a time and only while it has room, until it is with the lane: so what one webhook has not taken
costs the others nothing, and what waits in tables is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import datetime, timedelta

import structlog

from services.scheduler.domain.errors import WatchPositionExpired
from services.scheduler.domain.event_topic_ports import EventTopic, Record, TopicReader
from services.scheduler.domain.ports import TaskReader
from services.scheduler.domain.positions import Positions, reaches
from services.scheduler.webhooks.matching import Matching
from services.scheduler.webhooks.registry import Known, Registry
from services.scheduler.webhooks.waiting import Backlog, Page, Waiting, at_lane

log = structlog.get_logger(__name__)

_MOST_RECORDS = 500
_READ_SECONDS = 0.5
_CATCH_UP_SECONDS = 0.25
_KEEP_SECONDS = 5.0
_IDLE_SECONDS = 0.5
# A record's time is the relay's clock, an event's the database's; events from before the start are left out by the latter.
_CLOCKS_APART = timedelta(minutes=2)


class Routing:
    """The reading of one lane."""

    def __init__(
        self,
        registry: Registry,
        waiting: Waiting,
        topic: EventTopic,
        reader: TaskReader,
        partitions: Sequence[int],
        most_waiting: int,
        counts: dict[str, int],
        added: Callable[[str], None],
    ) -> None:
        """At most about `most_waiting` events of a webhook wait, of which `counts` keeps account; `added` hears of more."""
        self._registry = registry
        self._waiting = waiting
        self._topic = topic
        self._matching = Matching(topic, reader, partitions)
        self._partitions = partitions
        self._most = most_waiting
        self._counts = counts
        self._added = added
        self._positions: Positions | None = None
        self._kept: Positions | None = None
        self._kept_at = 0.0

    async def run(self, positions: Positions | None) -> None:
        """Reads on from where the lane is; raises what goes wrong, when the lane is to be opened anew."""
        self._positions = self._kept = positions
        await self._registry.ready()
        while not self._registry.all:  # noqa: ASYNC110 - it is read every now and then
            await asyncio.sleep(_IDLE_SECONDS)
        async with self._open() as reader:
            behind = _Aside(self._open)
            try:
                if self._positions is not None:
                    reader.seek(self._positions)
                while True:
                    await self._turn(reader, behind)
            finally:
                await behind.close()

    def _open(self) -> AbstractAsyncContextManager[TopicReader]:
        return self._topic.open(self._partitions)

    async def _turn(self, reader: TopicReader, aside: _Aside) -> None:
        """A page of the lane, and one of each webhook that is behind it and has room."""
        # What comes to be known meanwhile waits for the next turn: its place is read after it is known.
        known = dict(self._registry.all)
        if not known:
            await asyncio.sleep(_IDLE_SECONDS)
            return
        backlogs = {uid: backlog for uid, backlog in (await self._waiting.backlogs()).items() if uid in known}
        await self._find(backlogs, aside)
        behind = {uid for uid, backlog in backlogs.items() if not self._is_with_lane(backlog)}
        with_room = [uid for uid in sorted(behind) if self._counts.get(uid, 0) < self._most // 2]
        if len(behind) == len(known):
            # Nobody is with the lane, so it may go wherever it likes: to the one that is furthest.
            if not with_room:
                await asyncio.sleep(_IDLE_SECONDS)
                return
            self._positions = max((_place(backlogs[uid]) for uid in with_room), key=sum)
            reader.seek(self._positions)
            return
        served = {uid: each for uid, each in known.items() if uid not in behind}
        await self._read_lane(reader, served, backlogs, 0.0 if with_room else _READ_SECONDS)
        for uid in with_room:
            await self._catch_up(aside, known[uid], backlogs[uid])
        if not with_room:
            await aside.close()

    async def _find(self, backlogs: dict[str, Backlog], aside: _Aside) -> None:
        """Finds the place of those that begin at a time."""
        new = [uid for uid, backlog in backlogs.items() if backlog.positions is None]
        if any(self._counts.get(uid) for uid in new):
            # They were set back, and nothing of before waits any more.
            self._counts.clear()
            self._counts.update(await self._waiting.counts())
        for uid in new:
            start = backlogs[uid].start_time
            backlogs[uid] = Backlog(start, await aside.at(start - _CLOCKS_APART))

    def _is_with_lane(self, backlog: Backlog) -> bool:
        """Whether the lane has not gone past it: then it is served by the lane, from where it stands on."""
        return self._positions is not None and reaches(_place(backlog), self._positions)

    async def _read_lane(
        self, reader: TopicReader, served: Mapping[str, Known], backlogs: Mapping[str, Backlog], seconds: float
    ) -> None:
        assert self._positions is not None
        before = self._positions
        missed: Collection[str] = ()
        try:
            records, reached = await reader.read(_MOST_RECORDS, seconds)
        except WatchPositionExpired:
            records, reached = [], await _begin(reader, before)
            reader.seek(reached)
            missed = served.keys()
        by_tenant: dict[str, list[Known]] = {}
        for each in served.values():
            by_tenant.setdefault(each.webhook.tenant_id, []).append(each)
        wanted = await self._matching.of(records, lambda tenant_id: by_tenant.get(tenant_id, ()), backlogs)
        full = {each.uid for each in wanted if self._counts.get(each.uid, 0) >= self._most}
        joined = {
            uid for uid, backlog in backlogs.items() if uid in served and uid not in full and reaches(reached, _place(backlog))
        }
        uids = {each.uid for each in wanted} | joined
        now = asyncio.get_running_loop().time()
        if uids or missed or self._kept is None or (reached != self._kept and now - self._kept_at > _KEEP_SECONDS):
            # Those with too much waiting go on from before this page.
            places = {uid: backlogs.get(uid, at_lane(before)) for uid in full}
            page = Page(
                {uid: served[uid].webhook.generation for uid in uids},
                [each for each in wanted if each.uid not in full],
                lane=reached,
                backlogs={
                    uid: (served[uid].webhook.tenant_id, Backlog(place.start_time, tuple(map(max, _place(place), before))))
                    for uid, place in places.items()
                },
                with_lane=joined,
                missed=missed,
            )
            await self._store(page)
            self._kept, self._kept_at = reached, now
        self._positions = reached

    async def _catch_up(self, aside: _Aside, known: Known, backlog: Backlog) -> None:
        records, reached, missed = await aside.read(_place(backlog))
        tenant_id = known.webhook.tenant_id
        wanted = await self._matching.of(records, lambda of: [known] if of == tenant_id else [], {known.uid: backlog})
        page = Page(
            {known.uid: known.webhook.generation},
            wanted,
            backlogs={known.uid: (tenant_id, Backlog(backlog.start_time, reached))},
            missed=[known.uid] if missed else (),
        )
        await self._store(page)

    async def _store(self, page: Page) -> None:
        for uid, number in (await self._waiting.store(page)).items():
            self._counts[uid] = self._counts.get(uid, 0) + number
            self._added(uid)


class _Aside:
    """A reader for those that are behind, open while there are any."""

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[TopicReader]]) -> None:
        self._connect = connect
        self._stack = AsyncExitStack()
        self._reader: TopicReader | None = None
        self._at: Positions | None = None

    async def at(self, moment: datetime) -> Positions:
        """Where the events begin that were published at a moment or later; raises DependencyUnavailable."""
        return await (await self._open()).at(moment)

    async def read(self, place: Positions) -> tuple[Sequence[Record], Positions, bool]:
        """A page from a place on, the place behind it, and whether something between is no longer kept."""
        reader = await self._open()
        if self._at != place:
            reader.seek(place)
        self._at = None
        try:
            records, self._at = await reader.read(_MOST_RECORDS, _CATCH_UP_SECONDS)
        except WatchPositionExpired:
            return (), await _begin(reader, place), True
        return records, self._at, False

    async def close(self) -> None:
        """Closes it, if it is open."""
        self._reader = self._at = None
        await self._stack.aclose()

    async def _open(self) -> TopicReader:
        if self._reader is None:
            self._reader = await self._stack.enter_async_context(self._connect())
        return self._reader


async def _begin(reader: TopicReader, place: Positions) -> Positions:
    """Where to go on from a place that the topic no longer has, or never had."""
    begin, end = await reader.bounds()
    log.warning("events_missed", place=place, begin=begin, end=end)
    return tuple(mine if first <= mine <= last else first for mine, first, last in zip(place, begin, end, strict=True))


def _place(backlog: Backlog) -> Positions:
    assert backlog.positions is not None
    return backlog.positions
