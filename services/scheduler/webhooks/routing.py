"""Takes events out of a topic, a lane's partitions at a time, and keeps those that webhooks want until they are delivered.

One reader serves all webhooks that are with the lane. One that is behind it (new, set back, or with as much waiting as it may
have) reads by itself, a page at a time and only while it has room, until it is with the lane: so what one webhook has not taken
costs the others nothing, and what waits in tables is bounded. So does one that has events on the topic of before (former_topics).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

import structlog
from prometheus_client import Gauge

from services.common.errors import DomainError
from services.scheduler.domain.errors import WatchPositionExpired
from services.scheduler.domain.event_topic_ports import EventTopics, Record, TopicReader
from services.scheduler.domain.ports import TaskReader
from services.scheduler.domain.positions import Positions, reaches
from services.scheduler.webhooks.aside import MOST_RECORDS, Aside, begin
from services.scheduler.webhooks.former_topics import CLOCKS_APART, FormerTopics
from services.scheduler.webhooks.matching import Matching
from services.scheduler.webhooks.registry import Known, Registry
from services.scheduler.webhooks.waiting import Backlog, Page, Place, Waiting, at_lane

log = structlog.get_logger(__name__)

readings = Gauge(
    "guildmesh_webhook_topics", "Topics whose events webhooks want, each once for each lane of this process.", ["state"]
)
for _state in ("wanted", "read"):
    readings.labels(_state)

_READ_SECONDS = 0.5
_KEEP_SECONDS = 5.0
_IDLE_SECONDS = 0.5
# Between two looks whether what is at the end of a topic of before may go over, or a topic of before may be read again.
_REST_SECONDS = 1.0


class Routing:
    """The reading of the topic of one owner in one lane."""

    def __init__(
        self,
        registry: Registry,
        waiting: Waiting,
        topics: EventTopics,
        owner: str,
        reader: TaskReader,
        partitions: Sequence[int],
        most_waiting: int,
        counts: dict[str, int],
        added: Callable[[str], None],
    ) -> None:
        """At most about `most_waiting` events of a webhook wait, of which `counts` keeps account; `added` hears of more."""
        self._registry = registry
        self._waiting = waiting
        self._owner = owner
        self._topic = topics.of(owner)
        self._matching = Matching(self._topic, reader, partitions)
        self._partitions = partitions
        self._most = most_waiting
        self._counts = counts
        self._added = added
        self._aside = Aside(self._topic, partitions)
        self._former = FormerTopics(topics, partitions)
        self._positions: Positions | None = None
        self._kept: Positions | None = None
        self._kept_at = 0.0
        self._changes = -1
        self._backlogs: dict[str, Backlog] = {}
        self._rests: dict[str, float] = {}
        """until when nothing is done for a webhook that has to do with a topic of before."""

    async def run(self) -> None:
        """Reads on from where the lane is; raises what goes wrong, when it is to be run anew."""
        self._positions = self._kept = await self._waiting.place(self._owner)
        self._changes = -1
        self._rests.clear()
        try:
            async with self._topic.open(self._partitions) as reader:
                known = {each.uid for each in self._registry.of_owner(self._owner)}
                if known <= (await self._waiting.backlogs(self._owner)).keys():
                    # Nobody is with the lane, which may have been left long ago.
                    self._positions = None
                if self._positions is not None:
                    reader.seek(self._positions)
                with readings.labels("read").track_inprogress():
                    while True:
                        await self._turn(reader)
        finally:
            await self._aside.close()
            await self._former.close()

    async def _turn(self, reader: TopicReader) -> None:
        """A page of the lane, and one of each webhook that is behind it and has room."""
        # What comes to be known meanwhile waits for the next turn: its place is read after it is known.
        changes = self._registry.changes
        known = {each.uid: each for each in self._registry.of_owner(self._owner)}
        if not known:
            await asyncio.sleep(_IDLE_SECONDS)
            return
        if self._backlogs or changes != self._changes:
            # Nobody else puts a webhook behind without a change of it.
            found = await self._waiting.backlogs(self._owner)
            self._backlogs = {uid: backlog for uid, backlog in found.items() if uid in known}
            self._changes = changes
        backlogs = dict(self._backlogs)
        await self._find(known, backlogs)
        behind = {uid for uid, backlog in backlogs.items() if not self._is_with_lane(backlog)}
        with_room = [uid for uid in sorted(behind) if self._has_room(uid, backlogs[uid])]
        here = [uid for uid in with_room if self._is_here(backlogs[uid])]
        if len(behind) < len(known):
            if self._positions is None:
                self._positions, _ = await reader.bounds()
                reader.seek(self._positions)
            served = {uid: each for uid, each in known.items() if uid not in behind}
            await self._read_lane(reader, served, backlogs, 0.0 if with_room else _READ_SECONDS)
        elif here:
            # Nobody is with the lane, so it may go wherever it likes: to the one that is furthest.
            self._positions = max((_place(backlogs[uid]) for uid in here), key=sum)
            reader.seek(self._positions)
            return
        elif not with_room:
            await asyncio.sleep(_IDLE_SECONDS)
        for uid in with_room:
            if self._is_here(backlogs[uid]):
                await self._catch_up(known[uid], backlogs[uid])
            else:
                await self._catch_up_before(known[uid], backlogs[uid])
        before = {backlog.topic for backlog in backlogs.values() if backlog.positions is not None and not self._is_here(backlog)}
        await self._former.keep(before)
        if not here and not before:
            await self._aside.close()

    async def _find(self, known: Mapping[str, Known], backlogs: dict[str, Backlog]) -> None:
        """Finds the place of those that begin at a time."""
        new = [uid for uid, backlog in backlogs.items() if backlog.positions is None and not self._is_resting(uid)]
        if any(self._counts.get(uid) for uid in new):
            # They were set back, and nothing of before waits any more.
            counts = await self._waiting.counts()
            self._counts.update({uid: counts.get(uid, 0) for uid in new})
        for uid in new:
            start, tenant_id = backlogs[uid].start_time, known[uid].webhook.tenant_id
            try:
                before = await self._former.start(tenant_id, start - CLOCKS_APART)
            except DomainError as error:
                await self._rest(known[uid], error)
                continue
            topic, place = before or (self._topic.name, await self._aside.at(start - CLOCKS_APART))
            backlogs[uid] = Backlog(start, place, topic)
            await self._store(Page({uid: known[uid].webhook.generation}, backlogs={uid: (tenant_id, backlogs[uid])}))

    def _is_here(self, backlog: Backlog) -> bool:
        """Whether it goes on in the topic of this reading."""
        return backlog.positions is not None and backlog.topic == self._topic.name

    def _is_with_lane(self, backlog: Backlog) -> bool:
        """Whether the lane has not gone past it: then it is served by the lane, from where it stands on."""
        return self._is_here(backlog) and self._positions is not None and reaches(_place(backlog), self._positions)

    def _has_room(self, uid: str, backlog: Backlog) -> bool:
        if backlog.positions is None or (not self._is_here(backlog) and self._is_resting(uid)):
            return False
        return self._counts.get(uid, 0) < self._most // 2

    def _is_resting(self, uid: str) -> bool:
        return asyncio.get_running_loop().time() < self._rests.get(uid, 0.0)

    async def _read_lane(
        self, reader: TopicReader, served: Mapping[str, Known], backlogs: Mapping[str, Backlog], seconds: float
    ) -> None:
        assert self._positions is not None
        before = Place(self._owner, self._topic.name, self._positions)
        missed: Collection[str] = ()
        try:
            records, reached = await reader.read(MOST_RECORDS, seconds)
        except WatchPositionExpired:
            records, reached = [], await begin(reader, before.positions)
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
                place=Place(self._owner, self._topic.name, reached),
                backlogs={uid: (served[uid].webhook.tenant_id, _not_before(place, before)) for uid, place in places.items()},
                with_lane=joined,
                missed=missed,
            )
            await self._store(page)
            self._kept, self._kept_at = reached, now
        self._positions = reached

    async def _catch_up(self, known: Known, backlog: Backlog) -> None:
        records, reached, missed = await self._aside.read(_place(backlog))
        await self._go_on(known, backlog, records, Backlog(backlog.start_time, reached, backlog.topic), missed=missed)

    async def _catch_up_before(self, known: Known, backlog: Backlog) -> None:
        """As _catch_up in a topic of before. Nobody else is held up by what goes wrong there."""
        try:
            go_on = await self._read_before(known, backlog)
        except DomainError as error:
            await self._rest(known, error)
        else:
            if not go_on:
                self._rests[known.uid] = asyncio.get_running_loop().time() + _REST_SECONDS

    async def _read_before(self, known: Known, backlog: Backlog) -> bool:
        """Whether there is more to read at once."""
        topic, place = backlog.topic, _place(backlog)
        if not await self._former.exists(topic):
            log.warning("former_topic_gone", topic=topic, webhook=known.webhook.webhook_id, tenant=known.webhook.tenant_id)
            start, _ = await self._aside.bounds()
            await self._go_on(known, backlog, (), Backlog(backlog.start_time, start, self._topic.name), missed=True)
            return True
        if not await self._former.ends_at(topic, place):
            records, reached, missed = await self._former.read(topic, place)
            await self._go_on(known, backlog, records, Backlog(backlog.start_time, reached, topic), missed=missed)
            return True
        start_here = await self._former.after(topic, place, self._aside)
        if start_here is None:
            return False
        log.info("topic_left", topic=topic, webhook=known.webhook.webhook_id, tenant=known.webhook.tenant_id)
        await self._go_on(known, backlog, (), Backlog(backlog.start_time, start_here, self._topic.name))
        return True

    async def _rest(self, known: Known, error: DomainError) -> None:
        names = {"webhook": known.webhook.webhook_id, "tenant": known.webhook.tenant_id}
        log.warning("former_topic_not_read", **names, error=str(error), retry_in=_REST_SECONDS)
        self._rests[known.uid] = asyncio.get_running_loop().time() + _REST_SECONDS
        await self._former.close()

    async def _go_on(
        self, known: Known, backlog: Backlog, records: Sequence[Record], then: Backlog, *, missed: bool = False
    ) -> None:
        """Takes over what one webhook wants of a page that begins where it stands."""
        tenant_id = known.webhook.tenant_id
        wanted = await self._matching.of(records, lambda of: [known] if of == tenant_id else [], {known.uid: backlog})
        page = Page(
            {known.uid: known.webhook.generation},
            wanted,
            backlogs={known.uid: (tenant_id, then)},
            missed=[known.uid] if missed else (),
        )
        await self._store(page)

    async def _store(self, page: Page) -> None:
        if page.backlogs or page.with_lane:
            self._changes = -1
        for uid, number in (await self._waiting.store(page)).items():
            self._counts[uid] = self._counts.get(uid, 0) + number
            self._added(uid)


def _place(backlog: Backlog) -> Positions:
    assert backlog.positions is not None
    return backlog.positions


def _not_before(backlog: Backlog, place: Place) -> Backlog:
    return Backlog(backlog.start_time, tuple(map(max, _place(backlog), place.positions)), place.topic)
