"""What the use cases need of payloads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from datetime import timedelta
from typing import Protocol

from services.scheduler.domain.payload import Payload


class Objects(Protocol):
    """Bodies by key; an object is there as a whole or not at all."""

    async def put(self, key: str, pieces: AsyncIterable[bytes]) -> None:
        """Stores all pieces as one object; when `pieces` raises, nothing is stored and that is raised."""

    def get(self, key: str, offset: int = 0) -> AsyncGenerator[bytes]:
        """The pieces of an object, from a byte on."""

    async def delete(self, key: str) -> None:
        """Deletes an object; one that is not there is deleted already."""


class PayloadStore(Protocol):
    """What is known of payloads, for one tenant."""

    async def begin(self, tenant_id: str, payload_id: str, content_type: str, longest: timedelta) -> None:
        """Says that an upload begins, which is given up after `longest`."""

    async def finish(self, tenant_id: str, payload_id: str, size: int, sha256: bytes, unused: timedelta) -> Payload | None:
        """Says that all of it is there; None when its upload was given up meanwhile."""

    async def get(self, tenant_id: str, payload_id: str) -> Payload | None:
        """A payload whose upload has ended, or None."""

    async def mark_deleting(self, tenant_id: str, payload_id: str, *, unfinished: bool = False) -> None:
        """Keeps everyone from using it any more; raises PayloadNotFound, PayloadInUse."""

    async def forget(self, tenant_id: str, payload_id: str) -> None:
        """Forgets one that was marked, and whose object is gone."""


class PayloadMarks(Protocol):
    """Finds, over all tenants, what nothing uses."""

    async def mark(self) -> Sequence[tuple[str, str]]:
        """Marks some of what nothing uses; gives tenants and ids."""

    async def forget(self, payloads: Sequence[tuple[str, str]]) -> None:
        """Forgets those that were marked, and whose objects are gone."""
