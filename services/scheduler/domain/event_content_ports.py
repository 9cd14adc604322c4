"""What the use cases need of what events may tell Kafka, and of the keys for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from services.common.errors import DomainError
from services.scheduler.domain.event_content import EventContent, EventKey


class EventContents(Protocol):
    """What of users' texts goes to Kafka, by queue, and who is erased."""

    default: EventContent
    """of queues that say nothing."""

    @property
    def erased(self) -> Collection[tuple[str, str]]:
        """Users (tenant and name) who were erased lately: their tokens may be good for a while yet."""

    @property
    def plain(self) -> bool:
        """Whether everything of all queues goes."""

    def of(self, tenant_id: str, queue: str) -> EventContent:
        """What the queue says that a tenant's tasks wait in."""

    def check(self, content: EventContent | None) -> None:
        """Raises EventKeysNotSet when a queue asks for what this mesh cannot do."""

    async def read(self) -> None:
        """Has this process go by what is kept now; the others hear of a change."""

    @property
    def keys(self) -> EventKeyStore:
        """The keys of users."""


class EventKeyStore(Protocol):
    """The keys of users."""

    async def of_users(
        self, connection: Any, users: Collection[tuple[str, str]]
    ) -> Mapping[tuple[str, str], EventKey | DomainError]:
        """The key of each user (tenant and name), made in a transaction where there is none; or why there is none."""

    async def by_id(self, connection: Any, key_ids: Iterable[str]) -> Mapping[str, EventKey]:
        """The keys with these ids, but for those that are destroyed or cannot be unsealed."""

    async def get(self, tenant_id: str, key_id: str) -> EventKey:
        """A key of a tenant, as it is kept now.

        Raises:
            EventKeyNotFound, EventKeyDestroyed, EventKeysNotSet, EventKeySealed.
        """

    async def erase(self, tenant_id: str, username: str) -> datetime:
        """Destroys the key of a user and any chance of another, and pauses the user's schedules; gives when that was done."""
