"""GetEventKey: gives the key of a user to whoever may read what it opens."""

from __future__ import annotations

from collections.abc import Collection

import structlog

from services.scheduler.domain.event_content import EventKey
from services.scheduler.domain.event_content_ports import EventKeyStore
from services.scheduler.domain.event_key_errors import EventKeyDestroyed, EventKeyNotFound

log = structlog.get_logger(__name__)

_ROLES = frozenset({"admin", "operator"})


class GetEventKey:
    """Gives keys, and tells the log of each."""

    def __init__(self, store: EventKeyStore) -> None:
        self._store = store

    async def execute(self, tenant_id: str, username: str, roles: Collection[str], key_id: str) -> EventKey:
        """A key of the caller's own, or, for an admin or operator, of any user of the same tenant.

        Raises:
            EventKeyNotFound, EventKeyDestroyed, EventKeysNotSet, EventKeySealed.
        """
        of_all = not _ROLES.isdisjoint(roles)
        try:
            key = await self._store.get(tenant_id, key_id)
        except EventKeyDestroyed as error:
            if not of_all and error.username != username:
                raise EventKeyNotFound(key_id) from error
            raise
        if not of_all and key.username != username:
            log.warning("event_key_refused", key=key_id, tenant=tenant_id, user=key.username, asked_by=username)
            raise EventKeyNotFound(key_id)
        log.info("event_key_given", key=key_id, tenant=tenant_id, user=key.username, given_to=username)
        return key
