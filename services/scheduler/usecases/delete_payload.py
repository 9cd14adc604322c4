"""DeletePayload."""

from __future__ import annotations

from services.common.failpoints import fail_point
from services.scheduler.domain.payload import object_key
from services.scheduler.domain.payload_ports import Objects, PayloadStore


class DeletePayload:
    """Deletes a payload that no task uses: first nobody may use it any more, then its object goes, then its row."""

    def __init__(self, store: PayloadStore, objects: Objects) -> None:
        self._store = store
        self._objects = objects

    async def execute(self, tenant_id: str, payload_id: str) -> None:
        """Deletes it; raises PayloadNotFound, PayloadInUse."""
        await self._store.mark_deleting(tenant_id, payload_id)
        await fail_point("scheduler.delete_payload.before_object")
        await self._objects.delete(object_key(tenant_id, payload_id))
        await fail_point("scheduler.delete_payload.after_object")
        await self._store.forget(tenant_id, payload_id)
