"""Leases of running executions: how one process tells that another one, which ran a tool, is gone.

Times are the database's (`clock_timestamp()`), so that the clocks of two machines are never compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text

from services.common.db.engine_role import EngineDatabase
from services.tool.domain.ledger import LEASE_SECONDS
from services.tool.storage.rows import EXECUTION_COLUMNS, execution_from_row
from services.tool.storage.told import tell_cut_off

# In the order of their key, so that two processes never wait for one another.
_RENEW = text(
    """
    UPDATE executions SET lease_until = clock_timestamp() + make_interval(secs => :seconds)
    FROM (
      SELECT tenant_id, execution_id FROM executions
      WHERE state = 'running' AND run_id = ANY(CAST(:runs AS uuid[]))
      ORDER BY tenant_id, execution_id FOR UPDATE
    ) mine
    WHERE executions.tenant_id = mine.tenant_id AND executions.execution_id = mine.execution_id
    """
)
_MARK = text(
    f"""
    UPDATE executions SET state = 'unknown'
    FROM (
      SELECT tenant_id AS tenant, execution_id AS id FROM executions
      WHERE state = 'running' AND lease_until < clock_timestamp()
      ORDER BY tenant_id, execution_id LIMIT 1000 FOR UPDATE SKIP LOCKED
    ) over
    WHERE executions.tenant_id = over.tenant AND executions.execution_id = over.id
    RETURNING tenant_id, {EXECUTION_COLUMNS}
    """  # noqa: S608 - the columns are ours
)


class PostgresLeases:
    """Renews the leases of this process and marks executions whose process is gone."""

    def __init__(self, database: EngineDatabase) -> None:
        self._database = database

    async def renew(self, runs: Sequence[str]) -> None:
        """Prolongs the leases of these runs, as far as they are still theirs."""
        async with self._database.transaction() as connection:
            await connection.execute(_RENEW, {"seconds": LEASE_SECONDS, "runs": list(runs)})

    async def mark_cut_off(self) -> int:
        """Marks executions UNKNOWN whose lease is over; gives how many."""
        async with self._database.transaction() as connection:
            rows = (await connection.execute(_MARK)).all()
            await tell_cut_off(connection, [(row.tenant_id, execution_from_row(row)) for row in rows])
        return len(rows)
