"""What the replica that decides and the others say to each other, and what it asks of the storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.scheduler.domain.fence import Fence
from services.scheduler.domain.head import Head, LaneKey, Page, Place, Seen
from services.scheduler.domain.limits import Limits, QueueKey
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.task import Lease


@dataclass(slots=True)
class Message:
    """What a replica tells the one that decides; it grows while the one before is on its way."""

    opened: list[tuple[int, Demand]] = field(default_factory=list)
    """demands with their numbers, which are not used again."""
    closed: list[int] = field(default_factory=list)
    offers: list[tuple[int, str, int]] = field(default_factory=list)
    """demand, worker, slots."""
    waiting: list[tuple[str, str, str]] = field(default_factory=list)
    """tenant, queue that no one decides for, and kind, of which tasks have come to wait."""

    def __bool__(self) -> bool:
        return bool(self.opened or self.closed or self.offers or self.waiting)


@dataclass(frozen=True, slots=True)
class Start:
    """A task that was started on an offered slot."""

    number: int
    """of the demand."""
    worker_id: str
    task_id: str
    attempt: int
    lease: Lease | None = None
    """None for a replica elsewhere, which reads it."""


@dataclass(slots=True)
class Answer:
    """What the replica that decides tells another."""

    wanted: list[tuple[int, int, int]] = field(default_factory=list)
    """demand, how many tasks could start on slots of it, and the priority of the first of their queues."""
    starts: list[Start] = field(default_factory=list)
    returned: list[tuple[int, str, int]] = field(default_factory=list)
    """demand, worker, slots that it has no use for."""

    def __bool__(self) -> bool:
        return bool(self.wanted or self.starts or self.returned)


class Link(Protocol):
    """The way from a replica to the one that decides."""

    def tell(self, message: Message) -> None:
        """Tells it, as soon as what was told before has gone."""

    def close(self) -> None:
        """Ends it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Who decides, as the table says."""

    owner: str
    address: str


class Owners(Protocol):
    """The election of the replica that decides."""

    async def stand(self, owner: str, address: str, dead: Sequence[str]) -> Standing:
        """Renews the lease of `owner`, or takes it when it has ended or its holder is at one of the `dead` addresses."""

    async def resign(self, owner: str) -> None:
        """Gives the lease up, if it is the owner's."""


@dataclass(frozen=True, slots=True)
class ToStart:
    """A task that was decided on."""

    task_id: str
    worker_id: str
    here: bool
    """whether the worker is this process's, so that it needs the whole task."""


class Decisions(Protocol):
    """The statements of the replica that decides."""

    async def take_over(self, owner: str) -> int | None:
        """Begins an epoch, from which on no start of an older one can be committed; None when another is the owner."""

    async def everything(self, window: int) -> tuple[Sequence[Seen], Sequence[Page]]:
        """All that runs, and the first `window` tasks that wait in each lane."""

    async def look(self, task_ids: Sequence[str]) -> Sequence[Seen]:
        """The tasks of these that have not ended."""

    async def pages(self, lanes: Sequence[tuple[LaneKey, Place]], window: int) -> Sequence[Page]:
        """The next `window` tasks of lanes, behind a place."""

    async def of_keys(self, keys: Sequence[tuple[QueueKey, str]], most: int) -> Sequence[Sequence[Head]]:
        """The first `most` tasks that wait for each concurrency key."""

    async def start(self, fence: Fence, starts: Sequence[ToStart]) -> Sequence[Lease]:
        """Starts the tasks of these that still wait.

        Raises:
            EpochOver: the epoch is not the newest.
            LimitsChanged: queues have changed since.
        """

    async def started(self, starts: Sequence[Start]) -> Sequence[Lease]:
        """Reads tasks that were started and still are."""


@dataclass(frozen=True, slots=True)
class KnownQueues:
    """The queues that one replica decides for, or is to."""

    limits: Mapping[QueueKey, Limits]
    limited: frozenset[QueueKey]
    """those that have limits."""
    decided: Mapping[QueueKey, bool]
    """those it decides for already; whether nothing of them can start in another way any more."""
    version: int
    """of the limits."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A step through all tasks."""

    last: str | None
    """id of the last it looked at; None when there are no more."""
    changed: Sequence[str]
    """tasks that are decided on from now on."""
    waiting: Sequence[tuple[str, str, str]]
    """tenants, queues and kinds of tasks that wait and are not."""


class QueueDecisions(Protocol):
    """Which queues one replica decides for."""

    async def queues(self) -> KnownQueues:
        """How it is."""

    async def decide_on(self, epoch: int, limited: Sequence[QueueKey], waiting: Sequence[tuple[str, str]]) -> None:
        """Decides from now on for queues that have limits, and for queues of all in which two of these tenants wait.

        Raises:
            EpochOver: `epoch` is not the newest.
        """

    async def settle(self, epoch: int, queues: Sequence[QueueKey]) -> None:
        """Notes that nothing of queues can start in another way any more; raises EpochOver."""

    async def release(self, epoch: int, queues: Sequence[QueueKey]) -> None:
        """Leaves queues to whoever is first again; raises EpochOver."""

    async def convert(self, after: str) -> Converted:
        """Goes through some tasks behind the id `after`, and has those decided on whose queues are."""
