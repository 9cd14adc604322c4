"""Payloads of one tenant, under its row security: rows here, bodies in the object store.

A row is written before the object it tells of, and goes after it. Whoever is killed in between leaves a row by which the sweep
(services.scheduler.storage.payload_sweep) finds the object.
"""

from __future__ import annotations

from datetime import timedelta

import asyncpg

from services.common.db.driver import Driver
from services.scheduler.domain.payload import Payload, PayloadState
from services.scheduler.domain.payload_errors import PayloadInUse, PayloadNotFound

_COLUMNS = "payload_id::text, tenant_id, content_type, size_bytes, sha256, create_time, expire_time"
_BEGIN = """
INSERT INTO payloads (tenant_id, payload_id, content_type, expire_time, check_time)
VALUES ($1, $2, $3, clock_timestamp() + $4, clock_timestamp() + $4)
"""
_FINISH = f"""
UPDATE payloads SET state = 2, size_bytes = $3, sha256 = $4,
  expire_time = clock_timestamp() + $5, check_time = clock_timestamp() + $5
WHERE tenant_id = $1 AND payload_id = $2 AND state = 1 RETURNING {_COLUMNS}
"""  # noqa: S608 - constants only
_GET = f"SELECT {_COLUMNS} FROM payloads WHERE tenant_id = $1 AND payload_id = $2 AND state = 2"  # noqa: S608 - constants only
_LOCK = "SELECT state FROM payloads WHERE tenant_id = $1 AND payload_id = $2 FOR UPDATE"
_USED = """
SELECT EXISTS (SELECT FROM task_payloads WHERE tenant_id = $1 AND payload_id = $2)
  OR EXISTS (SELECT FROM schedules WHERE tenant_id = $1 AND context_payload = $2)
"""
_MARK = "UPDATE payloads SET state = 3, check_time = clock_timestamp() WHERE tenant_id = $1 AND payload_id = $2"
_FORGET = "DELETE FROM payloads WHERE tenant_id = $1 AND payload_id = $2 AND state = 3"


class Payloads:
    """The rows; see PayloadStore."""

    def __init__(self, database: Driver) -> None:
        self._database = database

    async def begin(self, tenant_id: str, payload_id: str, content_type: str, longest: timedelta) -> None:
        """Says that an upload begins, which is given up after `longest`."""
        async with self._database.tenant(tenant_id) as connection:
            await connection.execute(_BEGIN, tenant_id, payload_id, content_type, longest)

    async def finish(self, tenant_id: str, payload_id: str, size: int, sha256: bytes, unused: timedelta) -> Payload | None:
        """Makes it READY, for as long as `unused` while no task uses it; None when its upload was given up meanwhile."""
        async with self._database.tenant(tenant_id) as connection:
            row = await connection.fetchrow(_FINISH, tenant_id, payload_id, size, sha256, unused)
        return None if row is None else payload_of(row)

    async def get(self, tenant_id: str, payload_id: str) -> Payload | None:
        """A payload that is READY, or None."""
        async with self._database.tenant(tenant_id) as connection:
            row = await connection.fetchrow(_GET, tenant_id, payload_id)
        return None if row is None else payload_of(row)

    async def mark_deleting(self, tenant_id: str, payload_id: str, *, unfinished: bool = False) -> None:
        """Keeps everyone from using it any more; its object is to be deleted next. With `unfinished` it is an upload's own.

        Raises:
            PayloadNotFound, PayloadInUse.
        """
        wanted = PayloadState.UPLOADING if unfinished else PayloadState.READY
        async with self._database.tenant(tenant_id) as connection:
            # Whoever comes to use it locks its row, too: so in the second statement it is seen who was first.
            if await connection.fetchval(_LOCK, tenant_id, payload_id) != wanted:
                raise PayloadNotFound(payload_id)
            if await connection.fetchval(_USED, tenant_id, payload_id):
                raise PayloadInUse(payload_id)
            await connection.execute(_MARK, tenant_id, payload_id)

    async def forget(self, tenant_id: str, payload_id: str) -> None:
        """Deletes the row of one whose object is gone."""
        async with self._database.tenant(tenant_id) as connection:
            await connection.execute(_FORGET, tenant_id, payload_id)


def payload_of(row: asyncpg.Record) -> Payload:
    """The payload in a row."""
    return Payload(
        row["payload_id"],
        row["tenant_id"],
        row["content_type"],
        row["size_bytes"],
        row["sha256"],
        row["create_time"],
        row["expire_time"],
    )
