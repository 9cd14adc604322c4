"""Which process works on which lane of its service's work: leases in PostgreSQL, each with an epoch.

The lease keeps two processes from working on a lane. What makes it safe is who takes what they send: Kafka fences the producer of
whoever held the lane before, the scheduler knows an event that it has, and webhooks look at the epoch in each transaction.
The service's schema has the tables `relay_lanes`, with a row for each lane, and `relay_members`, or those of other work.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from datetime import timedelta

from services.common.db.engine_role import EngineDriver
from services.common.failpoints import fail_point

_STATEMENTS = {
    "join": """
INSERT INTO {work}_members (owner, lease_expires) VALUES ($1, clock_timestamp() + $2)
ON CONFLICT (owner) DO UPDATE SET lease_expires = EXCLUDED.lease_expires
""",
    "forget": "DELETE FROM {work}_members WHERE lease_expires < clock_timestamp() - interval '1 minute'",
    "members": "SELECT count(*) FROM {work}_members WHERE lease_expires > clock_timestamp()",
    "lanes": "SELECT count(*) FROM {work}_lanes",
    "renew": "UPDATE {work}_lanes SET lease_expires = clock_timestamp() + $2 WHERE owner = $1 RETURNING lane, epoch",
    "release": "UPDATE {work}_lanes SET owner = NULL, lease_expires = NULL WHERE owner = $1 AND lane = ANY($2::smallint[])",
    "release all": "UPDATE {work}_lanes SET owner = NULL, lease_expires = NULL WHERE owner = $1",
    "take": """
UPDATE {work}_lanes SET owner = $1, epoch = epoch + 1, lease_expires = clock_timestamp() + $2
WHERE lane IN (
  SELECT lane FROM {work}_lanes WHERE owner IS NULL OR lease_expires < clock_timestamp()
  ORDER BY lane LIMIT $3 FOR UPDATE SKIP LOCKED
)
RETURNING lane, epoch
""",
    "leave": "DELETE FROM {work}_members WHERE owner = $1",
    "holds": """
SELECT EXISTS (
  SELECT FROM {work}_lanes WHERE lane = $1 AND owner = $2 AND epoch = $3 AND lease_expires > clock_timestamp()
)
""",
}


class Ownership:
    """The lanes of one process."""

    def __init__(self, database: EngineDriver, owner: str, lease_seconds: float, work: str = "relay") -> None:
        """`work` is what the names of the tables of members and lanes begin with."""
        self._sql = {name: statement.format(work=work) for name, statement in _STATEMENTS.items()}
        self._database = database
        self._owner = owner
        self._lease = timedelta(seconds=lease_seconds)
        self._until = 0.0

    async def renew(self) -> Mapping[int, int]:
        """Renews what this process has, gives up what is more than its share, takes what is free; gives lane → epoch."""
        asked = asyncio.get_running_loop().time()
        async with self._database.transaction() as connection:
            await connection.execute(self._sql["join"], self._owner, self._lease)
            await connection.execute(self._sql["forget"])
            share = math.ceil(
                await connection.fetchval(self._sql["lanes"]) / max(1, await connection.fetchval(self._sql["members"]))
            )
            held = {row["lane"]: row["epoch"] for row in await connection.fetch(self._sql["renew"], self._owner, self._lease)}
            surplus = sorted(held)[share:]
            if surplus:
                await connection.execute(self._sql["release"], self._owner, surplus)
            if len(held) < share:
                taken = await connection.fetch(self._sql["take"], self._owner, self._lease, share - len(held))
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
            found: bool = await connection.fetchval(self._sql["holds"], lane, self._owner, epoch)
        return found

    async def leave(self) -> None:
        """Gives everything up, so that the others take over at once."""
        async with self._database.transaction() as connection:
            await connection.execute(self._sql["release all"], self._owner)
            await connection.execute(self._sql["leave"], self._owner)
