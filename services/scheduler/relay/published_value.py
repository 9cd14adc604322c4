"""What of an event of the log is published: one place, for whoever publishes again what a relay published."""

from __future__ import annotations

from services.common.db.engine_role import EngineDriver
from services.scheduler.domain.event_content import EventContent, EventKey
from services.scheduler.domain.event_key_errors import EventKeyDestroyed
from services.scheduler.relay.settings import ReplaySettings
from services.scheduler.storage.event_contents import EventContents
from services.scheduler.storage.event_history import LoggedTask
from services.scheduler.storage.event_keys import EventKeys
from services.scheduler.storage.published_event import Published, published_event

_MOST_KEYS = 10_000


class PublishedValues:
    """What Kafka got for events of the log: the same bytes.

    Not quite where somebody wants less there than at the time: what a queue has come to say since holds, and what was encrypted
    for a user who is erased now goes without it.
    """

    def __init__(self, database: EngineDriver, settings: ReplaySettings) -> None:
        self._keys = EventKeys(database, settings.master_keys)
        self._contents = EventContents(database, self._keys, settings.contents)
        self._known: dict[str, EventKey | None] = {}
        """None for those that are destroyed."""

    async def read(self) -> None:
        """Reads what the queues say now, before `of`."""
        await self._contents.read()

    async def of(self, task: LoggedTask, value: bytes) -> Published:
        """The serialized TaskEvent that Kafka got for an event of a task.

        Raises:
            EventKeysNotSet, EventKeySealed: the master key of the key that encrypted it is not there.
        """
        content = task.event_content or EventContent.PLAIN
        content = content.at_least(self._contents.of(task.tenant_id, task.queue))
        encrypted = content is EventContent.ENCRYPTED and task.event_key_id is not None
        key = await self._key(task.tenant_id, task.event_key_id or "") if encrypted else None
        return published_event(value, content, key)

    async def _key(self, tenant_id: str, key_id: str) -> EventKey | None:
        if key_id not in self._known:
            if len(self._known) >= _MOST_KEYS:
                self._known.clear()
            try:
                self._known[key_id] = await self._keys.get(tenant_id, key_id)
            except EventKeyDestroyed:
                self._known[key_id] = None
        return self._known[key_id]
