"""Which process works on which lane of its service's outbox: leases in PostgreSQL, each with an epoch.

The lease keeps two processes from working on a lane; what makes it safe is who takes what they send: Kafka fences the producer of
whoever held the lane before, and the scheduler knows an event that it has already. The service's schema has the tables
`relay_lanes`, with a row for each lane, and `relay_members`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from datetime import timedelta

from services.common.db.engine_role import EngineDriver
from services.common.failpoints import fail_point

_JOIN = """
INSERT INTO relay_members (owner, lease_expires) VALUES ($1, clock_timestamp() + $2)
ON CONFLICT (owner) DO UPDATE SET lease_expires = EXCLUDED.lease_expires
"""
_FORGET = "DELETE FROM relay_members WHERE lease_expires < clock_timestamp() - interval '1 minute'"
_MEMBERS = "SELECT count(*) FROM relay_members WHERE lease_expires > clock_timestamp()"
_LANES = "SELECT count(*) FROM relay_lanes"
_RENEW = """
UPDATE relay_lanes SET lease_expires = clock_timestamp() + $2 WHERE owner = $1 RETURNING lane, epoch
"""
_RELEASE_ALL = "UPDATE relay_lanes SET owner = NULL, lease_expires = NULL WHERE owner = $1"
_RELEASE = "UPDATE relay_lanes SET owner = NULL, lease_expires = NULL WHERE owner = $1 AND lane = ANY($2::smallint[])"
_TAKE = """
UPDATE relay_lanes SET owner = $1, epoch = epoch + 1, lease_expires = clock_timestamp() + $2
WHERE lane IN (
  SELECT lane FROM relay_lanes WHERE owner IS NULL OR lease_expires < clock_timestamp()
  ORDER BY lane LIMIT $3 FOR UPDATE SKIP LOCKED
)
RETURNING lane, epoch
"""
_LEAVE = "DELETE FROM relay_members WHERE owner = $1"
_HOLDS = """
SELECT EXISTS (
  SELECT FROM relay_lanes WHERE lane = $1 AND owner = $2 AND epoch = $3 AND lease_expires > clock_timestamp()
)
"""


class Ownership:
    """The lanes of one process."""

    def __init__(self, database: EngineDriver, owner: str, lease_seconds: float) -> None:
        self._database = database
        self._owner = owner
        self._lease = timedelta(seconds=lease_seconds)
        self._until = 0.0

    async def renew(self) -> Mapping[int, int]:
        """Renews what this process has, gives up what is more than its share, takes what is free; gives lane → epoch."""
        asked = asyncio.get_running_loop().time()
        async with self._database.transaction() as connection:
            await connection.execute(_JOIN, self._owner, self._lease)
            await connection.execute(_FORGET)
            share = math.ceil(await connection.fetchval(_LANES) / max(1, await connection.fetchval(_MEMBERS)))
            held = {row["lane"]: row["epoch"] for row in await connection.fetch(_RENEW, self._owner, self._lease)}
            surplus = sorted(held)[share:]
            if surplus:
                await connection.execute(_RELEASE, self._owner, surplus)
            if len(held) < share:
                taken = await connection.fetch(_TAKE, self._owner, self._lease, share - len(held))
                held |= {row["lane"]: row["epoch"] for row in taken}
            await fail_point("relay.lease.before_commit", connection.terminate)
        await fail_point("relay.lease.after_commit")
        self._until = asked + self._lease.total_seconds()
        return {lane: epoch for lane, epoch in held.items() if lane not in surplus}

    def valid(self) -> bool:
        """Whether the leases last, by this process's monotonic clock."""
        return asyncio.get_running_loop().time() < self._until

    async def holds(self, lane: int, epoch: int) -> bool:
        """Whether the lane is still this process's: asked before a producer is opened, since opening fences the one before."""
        async with self._database.transaction() as connection:
            found: bool = await connection.fetchval(_HOLDS, lane, self._owner, epoch)
        return found

    async def leave(self) -> None:
        """Gives everything up, so that the others take over at once."""
        async with self._database.transaction() as connection:
            await connection.execute(_RELEASE_ALL, self._owner)
            await connection.execute(_LEAVE, self._owner)
