"""The effect ledger, in PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.errors import Aborted, Unavailable
from services.common.ids import new_id
from services.tool.domain.ledger import LEASE_SECONDS, RENEW_SECONDS, Step, decide
from services.tool.domain.model import Execution, Outcome, RunOutcome, UsageState
from services.tool.storage.engine.leases import PostgresLeases
from services.tool.storage.rows import EXECUTION_COLUMNS, USAGE_COLUMNS, execution_from_row
from services.tool.storage.told import tell_called, tell_returned

_INSERT = text(
    f"""
    INSERT INTO executions (tenant_id, execution_id, tool_name, username, task_id, step_id, attempt, effect, arguments,
                            traceparent, run_id, lease_until)
    VALUES (:tenant_id, CAST(:execution_id AS uuid), :tool_name, :username, :task_id, :step_id, :attempt, :effect,
            CAST(CAST(:arguments AS text) AS json), :traceparent, CAST(:run_id AS uuid),
            clock_timestamp() + make_interval(secs => :lease_seconds))
    ON CONFLICT (tenant_id, task_id, step_id) WHERE task_id <> '' AND step_id <> '' DO NOTHING
    RETURNING {EXECUTION_COLUMNS}
    """  # noqa: S608 - the columns are ours
)
# The loser of a race reads the winner's row in a statement of its own, because its first one cannot see it.
_FIND = text(
    f"""
    SELECT {EXECUTION_COLUMNS} FROM executions
    WHERE tenant_id = :tenant_id AND task_id = :task_id AND step_id = :step_id
      AND task_id <> '' AND step_id <> '' FOR UPDATE
    """  # noqa: S608 - as above
)
_NEWER_ATTEMPT = text(
    """
    UPDATE executions SET attempt = :attempt
    WHERE tenant_id = :tenant_id AND execution_id = CAST(:execution_id AS uuid) AND attempt < :attempt
    """
)
_RUN_AGAIN = text(
    f"""
    UPDATE executions SET state = 'running', run = run + 1, begin_time = clock_timestamp(), traceparent = :traceparent,
      run_id = CAST(:run_id AS uuid), arguments = CAST(CAST(:arguments AS text) AS json),
      tool_name = :tool_name, username = :username, lease_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    WHERE tenant_id = :tenant_id AND execution_id = CAST(:execution_id AS uuid)
    RETURNING {EXECUTION_COLUMNS}
    """  # noqa: S608 - as above
)
_MARK_UNKNOWN = text(
    """
    UPDATE executions SET state = 'unknown'
    WHERE tenant_id = :tenant_id AND execution_id = CAST(:execution_id AS uuid) AND state = 'running'
    """
)
# The row of a run that may still be ended by it: it may have been believed dead meanwhile, but no other run has taken its place.
_FIND_RUN = text(
    f"""
    SELECT {EXECUTION_COLUMNS} FROM executions
    WHERE tenant_id = :tenant_id AND execution_id = CAST(:execution_id AS uuid) AND run_id = CAST(:run_id AS uuid)
      AND state <> 'ended' FOR UPDATE
    """  # noqa: S608 - as above
)
_END = text(
    """
    UPDATE executions SET state = 'ended', exit_code = :exit_code, output = :output, error = :error,
      result = CAST(CAST(:result AS text) AS json), seconds = :seconds, end_time = clock_timestamp()
    WHERE tenant_id = :tenant_id AND execution_id = CAST(:execution_id AS uuid)
    """
)
_RELEASE = text(
    """
    DELETE FROM executions WHERE tenant_id = :tenant_id AND execution_id = CAST(:execution_id AS uuid)
    """
)
_SIZES = text(
    """
    SELECT execution_id::text AS execution_id, octet_length(arguments::text) + coalesce(octet_length(result::text), 0) AS size
    FROM executions
    WHERE tenant_id = :tenant_id
      AND (CAST(:task_id AS text) = '' OR task_id = :task_id)
      AND (CAST(:before AS uuid) IS NULL OR execution_id < CAST(:before AS uuid))
    ORDER BY execution_id DESC LIMIT :limit
    """
)
_LIST = text(
    f"""
    SELECT {USAGE_COLUMNS} FROM executions
    WHERE tenant_id = :tenant_id AND execution_id = ANY(CAST(:ids AS uuid[])) ORDER BY executions.execution_id DESC
    """  # noqa: S608 - as above
)
_PAGE_BYTES = 256 * 1024
"""A page ends early rather than grow past what one message carries: arguments and results may be a mebibyte of JSON each, and
several times that as protobuf."""
_WAIT_SECONDS = 0.25
_log = structlog.get_logger(__name__)
_Key = tuple[str, str]


class PostgresLedger:
    """Implements the port Ledger; `keep_leases` must run beside it."""

    def __init__(self, database: Database, leases: PostgresLeases) -> None:
        self._database = database
        self._leases = leases
        self._runs: dict[_Key, str] = {}
        self._ended: dict[_Key, asyncio.Event] = {}

    async def begin(self, tenant_id: str, execution: Execution) -> tuple[Step, Execution]:
        """See Ledger."""
        values = _values(tenant_id, execution) | {
            "tool_name": execution.tool_name,
            "username": execution.username,
            "task_id": execution.task_id,
            "step_id": execution.step_id,
            "attempt": execution.attempt,
            "effect": execution.effect.value,
            "arguments": json.dumps(execution.arguments),
            "traceparent": execution.traceparent,
            "run_id": new_id(),
            "lease_seconds": LEASE_SECONDS,
        }
        async with self._database.tenant(tenant_id) as connection:
            row = (await connection.execute(_INSERT, values)).one_or_none()
            if row is not None:
                step, known = Step.RUN, execution_from_row(row)
                await tell_called(connection, tenant_id, known)
            else:
                step, known = await self._known(connection, tenant_id, execution, values)
        if step is Step.RUN:
            self._runs[tenant_id, known.execution_id] = str(values["run_id"])
        return step, known

    async def _known(
        self, connection: AsyncConnection, tenant_id: str, execution: Execution, values: dict[str, object]
    ) -> tuple[Step, Execution]:
        row = (await connection.execute(_FIND, values)).one_or_none()
        if row is None:
            # Its run was released in between; ask again.
            return Step.WAIT, execution
        known = execution_from_row(row)
        step = decide(known, execution.attempt, cut_off=bool(row.lease_over))
        values = values | {"execution_id": known.execution_id}
        if step is Step.STALE:
            return step, known
        await connection.execute(_NEWER_ATTEMPT, values)
        known = replace(known, attempt=max(known.attempt, execution.attempt))
        if step in (Step.RUN, Step.UNKNOWN) and known.state is UsageState.RUNNING:
            # Nobody has seen yet that its process is gone.
            await connection.execute(_MARK_UNKNOWN, values)
            await tell_returned(connection, tenant_id, known, RunOutcome.UNKNOWN)
        if step is Step.RUN:
            known = execution_from_row((await connection.execute(_RUN_AGAIN, values)).one())
            await tell_called(connection, tenant_id, known)
        return step, known

    async def end(self, tenant_id: str, execution: Execution, outcome: Outcome) -> bool:
        """See Ledger."""
        values = self._run_values(tenant_id, execution) | {
            "exit_code": outcome.exit_code,
            "output": outcome.output.encode(),
            "error": outcome.error,
            "result": json.dumps(outcome.result),
            "seconds": outcome.seconds,
        }
        async with self._database.tenant(tenant_id) as connection:
            row = (await connection.execute(_FIND_RUN, values)).one_or_none()
            if row is not None:
                await connection.execute(_END, values)
                known = execution_from_row(row)
                came_of_it = RunOutcome.SUCCEEDED if outcome.success else RunOutcome.FAILED
                late = known.state is UsageState.UNKNOWN
                await tell_returned(connection, tenant_id, known, came_of_it, outcome, late=late)
        self._forget(tenant_id, execution)
        return row is not None

    async def release(self, tenant_id: str, execution: Execution) -> None:
        """See Ledger."""
        async with self._database.tenant(tenant_id) as connection:
            values = self._run_values(tenant_id, execution)
            row = (await connection.execute(_FIND_RUN, values)).one_or_none()
            if row is not None:
                await connection.execute(_RELEASE, values)
                known = execution_from_row(row)
                late = known.state is UsageState.UNKNOWN
                await tell_returned(connection, tenant_id, known, RunOutcome.NOT_RUN, late=late)
        self._forget(tenant_id, execution)

    async def cut_off(self, tenant_id: str, execution: Execution) -> None:
        """See Ledger."""
        values = self._run_values(tenant_id, execution)
        # Without renewal the lease ends even if the database cannot be told now.
        self._forget(tenant_id, execution)
        async with self._database.tenant(tenant_id) as connection:
            row = (await connection.execute(_FIND_RUN, values)).one_or_none()
            if row is not None and (await connection.execute(_MARK_UNKNOWN, values)).rowcount:
                await tell_returned(connection, tenant_id, execution_from_row(row), RunOutcome.UNKNOWN)

    async def changed(self, tenant_id: str, execution: Execution) -> None:
        """See Ledger."""
        key = (tenant_id, execution.execution_id)
        if key not in self._runs:
            # It runs in another process.
            await asyncio.sleep(_WAIT_SECONDS)
            return
        event = self._ended.setdefault(key, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEASE_SECONDS):
                await event.wait()

    async def list_before(
        self, tenant_id: str, task_id: str, execution_id: str | None, limit: int
    ) -> tuple[Sequence[Execution], bool]:
        """See Ledger."""
        values = {"tenant_id": tenant_id, "task_id": task_id, "before": execution_id, "limit": limit + 1}
        async with self._database.tenant(tenant_id) as connection:
            sizes = (await connection.execute(_SIZES, values)).all()
            ids, size = [], 0
            for row in sizes[:limit]:
                if size > _PAGE_BYTES:
                    break
                ids.append(row.execution_id)
                size += row.size
            rows = await connection.execute(_LIST, {"tenant_id": tenant_id, "ids": ids})
            return [execution_from_row(row) for row in rows], len(sizes) > len(ids)

    async def keep_leases(self) -> None:
        """Renews the leases of this process' runs and marks those of dead processes, until cancelled."""
        while True:
            try:
                if self._runs:
                    await self._leases.renew(list(self._runs.values()))
                if (count := await self._leases.mark_cut_off()) > 0:
                    _log.warning("executions_cut_off", count=count)
            except (Unavailable, Aborted) as error:
                _log.warning("leases_not_renewed", error=str(error))
            await asyncio.sleep(RENEW_SECONDS)

    def _run_values(self, tenant_id: str, execution: Execution) -> dict[str, object]:
        run_id = self._runs[tenant_id, execution.execution_id]
        return _values(tenant_id, execution) | {"run_id": run_id}

    def _forget(self, tenant_id: str, execution: Execution) -> None:
        key = (tenant_id, execution.execution_id)
        self._runs.pop(key, None)
        event = self._ended.pop(key, None)
        if event is not None:
            event.set()


def _values(tenant_id: str, execution: Execution) -> dict[str, object]:
    return {"tenant_id": tenant_id, "execution_id": execution.execution_id}
