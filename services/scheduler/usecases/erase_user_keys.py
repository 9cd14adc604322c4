"""EraseUserKeys: destroys the keys of a user who is erased."""

from __future__ import annotations

from datetime import datetime

import structlog

from services.scheduler.domain.event_content_ports import EventContents, EventKeyStore

log = structlog.get_logger(__name__)


class EraseUserKeys:
    """Destroys keys."""

    def __init__(self, store: EventKeyStore, contents: EventContents) -> None:
        self._store = store
        self._contents = contents

    async def execute(self, tenant_id: str, username: str) -> datetime:
        """When the keys were destroyed, also by an earlier call; from then on the user has none and gets none."""
        erased = await self._store.erase(tenant_id, username)
        await self._contents.read()
        log.info("event_keys_erased", tenant=tenant_id, user=username)
        return erased
