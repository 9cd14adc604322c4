"""What is to be told of executions of all tenants, and is deleted when it was."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.db.engine_role import EngineDriver
from services.common.failpoints import fail_point
from services.tool.domain.told import LogEvent, Usage

# The oldest rows, up to a number and a size; the first is always taken.
_READ_LOG = """
SELECT lane, position, execution_id::text, payload FROM (
  SELECT *, sum(octet_length(payload)) OVER (ORDER BY lane, position) - octet_length(payload) AS bytes_before
  FROM (SELECT * FROM log_outbox WHERE lane = ANY($1::smallint[]) ORDER BY lane, position LIMIT $2) o
) rows WHERE bytes_before < $3 ORDER BY lane, position
"""
_DELETE_LOG = """
DELETE FROM log_outbox WHERE (lane, position) IN (SELECT * FROM unnest($1::smallint[], $2::bigint[]))
"""
_REFUSED = """
UPDATE executions e SET log_refusal = c.reason FROM unnest($1::uuid[], $2::text[]) AS c (execution_id, reason)
WHERE e.execution_id = c.execution_id
"""
_PENDING = "SELECT EXISTS (SELECT FROM log_outbox WHERE execution_id = $1::text::uuid)"
_READ_USAGES = """
SELECT position, tenant_id, usage_id, traceparent, payload FROM usage_outbox ORDER BY position LIMIT $1
"""
_DELETE_USAGES = "DELETE FROM usage_outbox WHERE position = ANY($1::bigint[])"


class PostgresLogOutbox:
    """Implements the port LogOutbox."""

    def __init__(self, database: EngineDriver) -> None:
        self._database = database

    async def read(self, lanes: Sequence[int], most: int, most_bytes: int) -> Sequence[LogEvent]:
        """See LogOutbox."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_READ_LOG, lanes, most, most_bytes)
        return [LogEvent(*row) for row in rows]

    async def settle(self, told: Sequence[tuple[LogEvent, str]]) -> None:
        """See LogOutbox."""
        refused = {event.execution_id: reason for event, reason in told if reason}
        async with self._database.transaction() as connection:
            await connection.execute(_DELETE_LOG, [event.lane for event, _ in told], [event.position for event, _ in told])
            if refused:
                ids = sorted(refused)
                await connection.execute(_REFUSED, ids, [refused[execution_id] for execution_id in ids])
            await fail_point("tool.settle.before_commit", connection.terminate)
        await fail_point("tool.settle.after_commit")

    async def pending(self, execution_id: str) -> bool:
        """See LogOutbox."""
        async with self._database.transaction() as connection:
            found: bool = await connection.fetchval(_PENDING, execution_id)
        return found


class PostgresUsageOutbox:
    """Implements the port UsageOutbox."""

    def __init__(self, database: EngineDriver) -> None:
        self._database = database

    async def read(self, most: int) -> Sequence[Usage]:
        """See UsageOutbox."""
        async with self._database.transaction() as connection:
            return [Usage(*row) for row in await connection.fetch(_READ_USAGES, most)]

    async def delete(self, usages: Sequence[Usage]) -> None:
        """See UsageOutbox."""
        async with self._database.transaction() as connection:
            await connection.execute(_DELETE_USAGES, [usage.position for usage in usages])
            await fail_point("tool.usages.before_commit", connection.terminate)
        await fail_point("tool.usages.after_commit")
