"""Which replica decides what starts: a lease in one row, and an epoch in another that each start goes by.

The lease only says who should; what makes it safe is the epoch (docs/decisions/0007-dispatch.md). They lie in two tables in order
that a renewal does not wait for starts: a trigger keeps the epoch from changing while any is under way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg

from services.common.db.engine_role import EngineDriver
from services.common.failpoints import fail_point
from services.scheduler.domain.decision import Standing
from services.scheduler.domain.fence import EpochOver, Fence, LimitsChanged

_STAND = """
WITH limits AS MATERIALIZED (SELECT {short}), took AS (
  UPDATE dispatch_owners SET owner = $1, address = $2, lease_expires = clock_timestamp() + $3 FROM limits
  WHERE scope = 0 AND (
    owner = $1 OR owner IS NULL OR lease_expires < clock_timestamp() OR address = ANY($4::text[]) AND address <> $2)
  RETURNING owner, address
)
SELECT owner, address FROM took UNION ALL
SELECT owner, address FROM dispatch_owners WHERE scope = 0 AND NOT EXISTS (SELECT FROM took)
"""
_RESIGN = "UPDATE dispatch_owners SET owner = NULL, lease_expires = NULL WHERE scope = 0 AND owner = $1"
# A process that stands still in a transaction must not keep the others from taking over: the limits of the driver, which are for
# transactions that only few wait for, are too long. To be shortened a limit must be taken away first.
SHORT = """set_config('idle_in_transaction_session_timeout', '750', true),
  CASE WHEN current_setting('server_version_num')::int >= 170000
    THEN set_config('transaction_timeout', '0', true) || set_config('transaction_timeout', '2000', true) END"""
_STAND = _STAND.format(short=SHORT)
# Waits for every start of an older epoch that is under way; once it is committed none can begin.
_FENCE = """
UPDATE dispatch_epochs e SET epoch = e.epoch + 1 FROM dispatch_owners o
WHERE e.scope = 0 AND o.scope = 0 AND o.owner = $1 RETURNING e.epoch
"""
# Triggers take this lock alone for whoever changes the epoch or a queue; who waits for it is not passed by those who come later.
FENCE = "hashtext('guildmesh.scheduler.dispatch'), 0"
# Before all that the transaction locks: shares the lock, then compares.
_HOLD = f"SELECT {SHORT}; SELECT hold_fence({{epoch}}, {{limits_version}})"
_EPOCH_OVER, _LIMITS_CHANGED = "GM001", "GM002"


@asynccontextmanager
async def epoch_transaction(database: EngineDriver, epoch: int) -> AsyncIterator[asyncpg.Connection]:
    """A transaction during which the epoch does not end; raises EpochOver when it has ended."""
    async with _holding(database, _HOLD.format(epoch=epoch, limits_version="NULL"), by_key=False, one_plan=False) as connection:
        yield connection


@asynccontextmanager
async def fenced_transaction(
    database: EngineDriver, fence: Fence, *, by_key: bool = False, one_plan: bool = False
) -> AsyncIterator[asyncpg.Connection]:
    """A transaction during which neither the epoch ends nor a queue changes.

    Raises:
        EpochOver: the epoch has ended.
        LimitsChanged: queues have changed since.
    """
    hold = _HOLD.format(epoch=fence.epoch, limits_version=fence.limits_version)
    async with _holding(database, hold, by_key=by_key, one_plan=one_plan) as connection:
        yield connection


@asynccontextmanager
async def _holding(database: EngineDriver, hold: str, *, by_key: bool, one_plan: bool) -> AsyncIterator[asyncpg.Connection]:
    try:
        async with database.transaction(by_key=by_key, one_plan=one_plan, first=hold) as connection:
            yield connection
    except asyncpg.PostgresError as error:
        if error.sqlstate == _EPOCH_OVER:
            raise EpochOver from error
        if error.sqlstate == _LIMITS_CHANGED:
            raise LimitsChanged from error
        raise


class DispatchOwners:
    """The election, as one replica sees it."""

    def __init__(self, database: EngineDriver, lease: timedelta) -> None:
        """A replica that is not heard of for `lease` is replaced."""
        self._database = database
        self._lease = lease

    async def stand(self, owner: str, address: str, dead: Sequence[str]) -> Standing:
        """Renews or takes the lease; gives who has it."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_STAND, owner, address, self._lease, list(dead))
        return Standing(row[0] or "", row[1] or "")

    async def resign(self, owner: str) -> None:
        """Gives the lease up, if it is the owner's."""
        async with self._database.transaction() as connection:
            await connection.execute(_RESIGN, owner)

    async def take_over(self, owner: str) -> int | None:
        """Begins an epoch; None when another is the owner by now."""
        async with self._database.transaction() as connection:
            epoch: int | None = await connection.fetchval(_FENCE, owner)
            await fail_point("scheduler.take_over.before_commit", connection.terminate)
        await fail_point("scheduler.take_over.after_commit")
        return epoch
