"""What of users' texts goes to Kafka, by queue, and who is erased: as this process knows it.

A new task is created with what its queue says; this list adds what a queue has come to say since, for the coming events of open
tasks.
"""

from __future__ import annotations

import asyncio

import structlog

from services.common.db.engine_role import EngineDriver
from services.common.errors import DomainError
from services.scheduler.domain.event_content import EventContent
from services.scheduler.domain.event_key_errors import EventKeysNotSet
from services.scheduler.domain.queue import EVERY_TENANT
from services.scheduler.domain.wake import Wake
from services.scheduler.storage.event_keys import EventKeys, User

log = structlog.get_logger(__name__)

_POLL_SECONDS = 5.0
# Who has a queue of its own name is in none of everyone's.
_QUEUES = """
SELECT tenant_id, queue, event_content FROM queues
WHERE queue IN (SELECT queue FROM queues WHERE event_content IS NOT NULL)
"""
# Tokens end within a day (JWT_EXPIRATION_MINUTES), and with them what an erased user may ask for.
_ERASED = "SELECT tenant_id, username FROM event_keys WHERE erase_time > clock_timestamp() - interval '2 days'"


class EventContents:
    """The list; whoever makes events asks it."""

    def __init__(self, database: EngineDriver, keys: EventKeys, default: EventContent = EventContent.PLAIN) -> None:
        self._database = database
        self.keys = keys
        self.default = default
        self._queues: dict[str, dict[str, EventContent]] = {}
        """of each name that any queue with a choice has, what is said by tenant."""
        self.erased: frozenset[User] = frozenset()
        """who was erased lately."""
        self._changed = asyncio.Event()

    @property
    def plain(self) -> bool:
        """Whether all queues are PLAIN."""
        return not self._queues and self.default is EventContent.PLAIN

    def of(self, tenant_id: str, queue: str) -> EventContent:
        """What the queue says that a tenant's tasks wait in."""
        named = self._queues.get(queue)
        if named is None:
            return self.default
        return named.get(tenant_id) or named.get(EVERY_TENANT) or self.default

    def check(self, content: EventContent | None) -> None:
        """Raises EventKeysNotSet when a queue asks for what this mesh cannot do."""
        if content is EventContent.ENCRYPTED and not self.keys.available:
            raise EventKeysNotSet

    def woken(self, wake: Wake) -> None:
        """Reads it again when queues have changed or somebody was erased."""
        if wake.queues is None or wake.queues:
            self._changed.set()

    async def read(self) -> None:
        """Reads the list."""
        async with self._database.transaction() as connection:
            queues = await connection.fetch(_QUEUES)
            erased = await connection.fetch(_ERASED)
        known: dict[str, dict[str, EventContent]] = {}
        for tenant_id, queue, content in queues:
            known.setdefault(queue, {})[tenant_id] = self.default if content is None else EventContent(content)
        self._queues = known
        self.erased = frozenset((row[0], row[1]) for row in erased)
        self.keys.forget(self.erased)

    async def run(self) -> None:
        """Reads it every few seconds and whenever it has changed, until cancelled; survives the database being away."""
        while True:
            self._changed.clear()
            try:
                await self.read()
            except DomainError as error:
                log.warning("event_contents_not_read", error=str(error))
            except Exception:
                log.exception("event_contents_not_read")
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue
