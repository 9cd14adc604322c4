"""GetPayload and DownloadPayload."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.common.errors import ObjectNotFound
from services.scheduler.domain.payload import Payload, object_key
from services.scheduler.domain.payload_errors import PayloadLost, PayloadNotFound
from services.scheduler.domain.payload_ports import Objects, PayloadStore


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
        """Its body from a byte on; nothing from its end on. Raises PayloadLost."""
        return _nothing() if offset >= payload.size else self._body(payload, offset)

    async def _body(self, payload: Payload, offset: int) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(self._objects.get(object_key(payload.tenant_id, payload.payload_id), offset)) as pieces:
                async for piece in pieces:
                    yield piece
        except ObjectNotFound as error:
            raise PayloadLost(payload.payload_id) from error


async def _nothing() -> AsyncGenerator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for piece in nothing:
        yield piece
