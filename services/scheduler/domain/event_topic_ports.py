"""What the use cases need of the events topic."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import NamedTuple, Protocol

from services.scheduler.domain.positions import Positions
from services.scheduler.domain.published import Published
from services.scheduler.domain.topic_names import TopicNames


class Record(NamedTuple):
    """An event on the topic, as far as it need not be parsed."""

    partition: int
    offset: int
    tenant_id: str
    value: bytes
    """guildmesh.events.v1.TaskEvent as it is on the topic, which may be JSON."""
    traceparent: str = ""
    """W3C trace context, where it has one."""


class TopicReader(Protocol):
    """Reads the events topic from a place on, what was committed there only.

    Every method raises DependencyUnavailable while Kafka does not answer.
    """

    async def bounds(self) -> tuple[Positions, Positions]:
        """Where what is kept begins, and where it ends: what is published from now on comes behind that."""

    async def at(self, moment: datetime) -> Positions:
        """Where the events begin that were published at a moment or later."""

    async def newest(self) -> datetime | None:
        """When the last of the newest records was published, None where there is none; leaves the reader anywhere."""

    def seek(self, positions: Positions) -> None:
        """Goes to a place."""

    def rest(self) -> None:
        """Reads nothing ahead until the next read: a question waits for what is being read before it is answered."""

    async def read(self, most: int, seconds: float) -> tuple[Sequence[Record], Positions]:
        """At most so many records, each partition's in order, and the place behind them; waits so long when there is none.

        Raises:
            WatchPositionExpired: what follows the place is no longer kept, or it was never reached.
        """


class EventTopic(Protocol):
    """A topic of events."""

    @property
    def name(self) -> str:
        """What it is called."""

    def open(self, only: Sequence[int] = ...) -> AbstractAsyncContextManager[TopicReader]:
        """A reader of its own, of all partitions or some, whose places are then of these alone; raises DependencyUnavailable."""

    def parse(self, record: Record) -> Published:
        """What a record says."""


class EventTopics(Protocol):
    """The topics of events that there may be."""

    @property
    def names(self) -> TopicNames:
        """What those are called that relays publish to."""

    def of(self, owner: str) -> EventTopic:
        """The one of an owner, which is made where it is missing."""

    def called(self, name: str) -> EventTopic:
        """The one of a name, which is never made."""

    async def exists(self, name: str) -> bool:
        """Whether there is one of a name; raises DependencyUnavailable."""
