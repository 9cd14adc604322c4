"""GetPayload and DownloadPayload."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from services.scheduler.domain.errors import PayloadNotFound
from services.scheduler.domain.payload import Payload, object_key
from services.scheduler.domain.ports import Objects, PayloadStore


class ReadPayload:
    """Reads what a tenant has uploaded."""

    def __init__(self, store: PayloadStore, objects: Objects) -> None:
        self._store = store
        self._objects = objects

    async def get(self, tenant_id: str, payload_id: str) -> Payload:
        """The payload; raises PayloadNotFound."""
        payload = await self._store.get(tenant_id, payload_id)
        if payload is None:
            raise PayloadNotFound(payload_id)
        return payload

    def pieces(self, payload: Payload, offset: int) -> AsyncGenerator[bytes]:
        """Its body from a byte on; nothing from its end on."""
        if offset >= payload.size:
            return _nothing()
        return self._objects.get(object_key(payload.tenant_id, payload.payload_id), offset)


async def _nothing() -> AsyncGenerator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for piece in nothing:
        yield piece
