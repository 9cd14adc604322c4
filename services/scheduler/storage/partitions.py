"""The partitions of `finished_tasks`: made before their time, and taken out when all in them was kept long enough.

See docs/decisions/0008-retention.md; what becomes of a partition that was taken out is in services.scheduler.storage.expiry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta

import asyncpg
import structlog

from services.common.db.engine_role import EngineDriver
from services.common.failpoints import fail_point

log = structlog.get_logger(__name__)

PERIODS: Mapping[int, timedelta] = {
    1: timedelta(hours=4),
    7: timedelta(days=1),
    30: timedelta(days=5),
    90: timedelta(days=15),
}
"""width of the partitions of a class: what is kept longer than it must be is a sixth, and a read by id is cut to one of seven."""
AHEAD = 2
"""partitions that are made before their time comes."""
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
# The ids come from the clocks of the schedulers, which may be ahead of the database's by this.
_MARGIN = timedelta(minutes=1)
# Whoever uses the table waits behind us for as long as we wait for a lock on it.
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '100ms'"
# Until the end of the transaction.
_ALONE = "SELECT pg_try_advisory_xact_lock(hashtext('guildmesh.scheduler.partitions'))"

_CLASSES = """
SELECT DISTINCT days FROM (
  SELECT COALESCE(retention_days, $1) AS days FROM queues UNION SELECT dead_letter_retention_days FROM queues UNION SELECT $1
) c WHERE days > 0 ORDER BY days
"""
_UNTIL = "SELECT statement_timestamp(), max(upper_time) FROM task_partitions WHERE retention_days = $1"
_RESTS = "SELECT EXISTS (SELECT FROM {rest})"
_ADD = "SELECT add_task_partition($1, $2, $3)"
# One after another, so that what nobody sees any more is soon told to Kafka as well.
_OVER = """
SELECT name, retention_days FROM task_partitions
WHERE lower_id IS NOT NULL AND upper_time <= statement_timestamp() - retention_days * interval '1 day'
  AND NOT EXISTS (SELECT FROM task_partitions WHERE detach_time IS NOT NULL)
ORDER BY upper_time
"""
_YOUNG = "SELECT EXISTS (SELECT FROM {leaf} WHERE finish_time > statement_timestamp() - $1 * interval '1 day')"
_DETACH = "SELECT detach_task_partition($1)"


class _StillUsed(Exception):
    """A task ended in a partition while it was about to be taken out."""


class Partitions:
    """Makes partitions and takes them out. Several processes may: one at a time does, the others leave it to that one."""

    def __init__(self, database: EngineDriver, default_days: int) -> None:
        """A queue that does not say how long its tasks are kept keeps them for `default_days`."""
        self._database = database
        self._default_days = default_days

    async def add(self) -> int:
        """Makes the partitions that will be needed soon, of every class that a queue has; gives how many.

        Raises:
            ConcurrentChange: a long reader has the table; to be tried again.
        """
        async with self._database.transaction() as connection:
            classes = [row[0] for row in await connection.fetch(_CLASSES, self._default_days)]
        added = 0
        for days in classes:
            try:
                added += await self._add(days, timedelta())
            except asyncpg.CheckViolationError:
                # A clock is far ahead, and what it named lies where the partition would be: the next one begins after that.
                log.warning("partition_not_added", days=days)
                added += await self._add(days, PERIODS[days])
        return added

    async def detach(self) -> str | None:
        """Takes the oldest partition out whose tasks were all kept long enough; gives its name.

        Raises:
            ConcurrentChange: a long reader has the table; to be tried again.
        """
        try:
            async with self._database.transaction() as connection:
                name = await self._detach(connection)
                if name is not None:
                    await fail_point("scheduler.detach_partition.before_commit", connection.terminate)
        except _StillUsed:
            return None
        if name is not None:
            await fail_point("scheduler.detach_partition.after_commit")
            log.info("partition_detached", name=name)
        return name

    async def _add(self, days: int, later: timedelta) -> int:
        period, added = PERIODS[days], 0
        async with self._database.transaction() as connection:
            if not await connection.fetchval(_ALONE):
                return 0
            now, until = await connection.fetchrow(_UNTIL, days)
            begin = until
            if until is None or until < now:
                # Nobody was there in time. What was created meanwhile lies with what has no range, and stays there.
                rests = await connection.fetchval(_RESTS.format(rest=f"finished_tasks_{days}_rest"))
                begin = (now + _MARGIN if rests else start_of(now, period)) + later
            while begin < now + AHEAD * period:
                end = start_of(begin, period) + period
                await connection.execute(_LOCK_TIMEOUT)
                await connection.execute(_ADD, days, begin, end)
                begin, added = end, added + 1
            if added:
                await fail_point("scheduler.add_partition.before_commit", connection.terminate)
        if added:
            await fail_point("scheduler.add_partition.after_commit")
        return added

    async def _detach(self, connection: asyncpg.Connection) -> str | None:
        if not await connection.fetchval(_ALONE):
            return None
        for name, days in await connection.fetch(_OVER):
            young = _YOUNG.format(leaf=leaf_name(name))
            if await connection.fetchval(young, days):
                continue
            await connection.execute(_LOCK_TIMEOUT)
            await connection.execute(_DETACH, name)
            # The lock keeps everyone else out; until we had it, a task may have ended in there.
            if await connection.fetchval(young, days):
                raise _StillUsed
            return str(name)
        return None


def start_of(moment: datetime, period: timedelta) -> datetime:
    """The beginning of the period that `moment` is in; the periods count from 1970."""
    return moment - (moment - _EPOCH) % period


def leaf_name(name: str) -> str:
    """The name of a partition, for a statement; raises ValueError for what was never given to one."""
    if not re.fullmatch(r"finished_tasks_[0-9a-z_]+", name):
        raise ValueError(f"{name!r} names no partition")
    return name
