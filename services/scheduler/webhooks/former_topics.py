"""The topics on which events came before the setting of topics was changed, for webhooks that have not got all of them.

An event is on one topic or the other, never on both. A webhook reads the one of before to its end, and goes over once the relays
have: when there is something on the topic of now that is newer. A lane of the relay has one producer, and whoever opens it shuts
out the one before; so what is read of a lane of the topic of before *after* something was seen on that of now is all of it, and a
task's events come in order, without a gap, whenever which process was changed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from services.scheduler.domain.event_topic_ports import EventTopics, Record
from services.scheduler.domain.positions import Positions, reaches
from services.scheduler.webhooks.aside import Aside

CLOCKS_APART = timedelta(minutes=2)
"""A record's time is the clock of its relay, an event's the database's."""


class FormerTopics:
    """Those of one lane; every method but `close` and `keep` raises DependencyUnavailable."""

    def __init__(self, topics: EventTopics, partitions: Sequence[int]) -> None:
        self._topics = topics
        self._partitions = partitions
        self._open: dict[str, Aside] = {}
        self._newest: dict[str, tuple[Positions, datetime | None]] = {}
        """when the newest record was published, where the topic ended at a place."""

    async def start(self, tenant_id: str, moment: datetime) -> tuple[str, Positions] | None:
        """The topic of before and the place where a tenant's events of a moment or later begin there, None if it has none."""
        name = self._topics.names.former_events(tenant_id)
        if not await self._topics.exists(name):
            return None
        aside = self._aside(name)
        place = await aside.at(moment)
        _, end = await aside.bounds()
        return None if reaches(place, end) else (name, place)

    async def exists(self, name: str) -> bool:
        """Whether a topic is still there."""
        return name in self._open or await self._topics.exists(name)

    async def read(self, name: str, place: Positions) -> tuple[Sequence[Record], Positions, bool]:
        """As Aside.read."""
        return await self._aside(name).read(place)

    async def ends_at(self, name: str, place: Positions) -> bool:
        """Whether there is nothing behind a place."""
        _, end = await self._aside(name).bounds()
        return reaches(place, end)

    async def after(self, name: str, place: Positions, now: Aside) -> Positions | None:
        """Where to go on in the topic of `now` for who is at a place, which was the end of the one of before.

        None while something may yet come there.
        """
        if self._newest.get(name, ((), None))[0] != place:
            self._newest[name] = place, await self._aside(name).newest()
        newest = self._newest[name][1]
        start, end = await now.bounds()
        if newest is not None:
            start = await now.at(newest - CLOCKS_APART)
        if reaches(start, end):
            return None
        # Only now: see above.
        return start if await self.ends_at(name, place) else None

    async def keep(self, names: Collection[str]) -> None:
        """Closes all others."""
        for name in self._open.keys() - set(names):
            self._newest.pop(name, None)
            await self._open.pop(name).close()

    async def close(self) -> None:
        """Closes them."""
        await self.keep(())

    def _aside(self, name: str) -> Aside:
        if name not in self._open:
            self._open[name] = Aside(self._topics.called(name), self._partitions)
        return self._open[name]
