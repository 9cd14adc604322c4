"""UploadPayload: a body goes into the object store piece by piece."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta

import structlog

from services.common.errors import DomainError
from services.common.failpoints import fail_point
from services.common.ids import new_id
from services.scheduler.domain.payload import Payload, object_key
from services.scheduler.domain.payload_errors import PayloadNotFound, PayloadTooLarge, UploadTooSlow
from services.scheduler.domain.payload_ports import Objects, PayloadStore

log = structlog.get_logger(__name__)


class UploadPayload:
    """Uploads. The row comes before the object, and says that it is there only when all of it is."""

    def __init__(self, store: PayloadStore, objects: Objects, most: int, longest: timedelta, unused: timedelta) -> None:
        """Bodies of at most `most` bytes that come within `longest`; one that no task uses is kept for `unused`."""
        self._store = store
        self._objects = objects
        self._most = most
        self._longest = longest
        self._unused = unused

    async def execute(self, tenant_id: str, content_type: str, pieces: AsyncIterator[bytes]) -> Payload:
        """Stores the body.

        Raises:
            PayloadTooLarge: it has more bytes than a payload may; nothing is kept.
            UploadTooSlow: it took longer than an upload may, and was given up.
        """
        payload_id = new_id()
        # It is swept only when nobody can be uploading it any more.
        await self._store.begin(tenant_id, payload_id, content_type, 2 * self._longest)
        await fail_point("scheduler.upload_payload.before_object")
        measured = _Measured(pieces, self._most)
        try:
            async with asyncio.timeout(self._longest.total_seconds()):
                await self._objects.put(object_key(tenant_id, payload_id), measured.pieces())
            await fail_point("scheduler.upload_payload.after_object")
            payload = await self._store.finish(tenant_id, payload_id, measured.size, measured.sha256.digest(), self._unused)
        except TimeoutError as error:
            await self._give_up(tenant_id, payload_id)
            raise UploadTooSlow(self._longest.total_seconds()) from error
        except BaseException:
            await asyncio.shield(self._give_up(tenant_id, payload_id))
            raise
        if payload is None:
            # The sweep was sooner.
            raise UploadTooSlow(self._longest.total_seconds())
        return payload

    async def _give_up(self, tenant_id: str, payload_id: str) -> None:
        """Forgets it at once where that is possible; else the sweep does."""
        try:
            await self._store.mark_deleting(tenant_id, payload_id, unfinished=True)
            await self._objects.delete(object_key(tenant_id, payload_id))
            await self._store.forget(tenant_id, payload_id)
        except PayloadNotFound:
            return
        except DomainError as error:
            log.warning("upload_not_forgotten", payload_id=payload_id, error=str(error))


class _Measured:
    """The pieces of a body, counted and digested on their way."""

    def __init__(self, pieces: AsyncIterator[bytes], most: int) -> None:
        self._pieces = pieces
        self._most = most
        self.size = 0
        self.sha256 = hashlib.sha256()

    async def pieces(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            self.size += len(piece)
            if self.size > self._most:
                raise PayloadTooLarge(self._most)
            self.sha256.update(piece)
            if piece:
                yield piece
