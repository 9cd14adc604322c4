"""Makes events of parents from what their subtasks have left for them (see storage.child_changes)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import asyncpg

from services.scheduler.domain.run import Run
from services.scheduler.storage.changelog import ChangeLog
from services.scheduler.storage.child_changes import take_changes
from services.scheduler.storage.runs import lock_runs

BATCH = 1000
_EVERY = 1 << 30
_PARENTS = f"SELECT DISTINCT parent_task_id::text FROM (SELECT parent_task_id FROM child_changes LIMIT {BATCH}) c"  # noqa: S608


async def tell_parents(connection: asyncpg.Connection, log: ChangeLog) -> int:
    """Tells some parents, in the caller's transaction; gives of how many changes, 0 when nothing is left.

    What came after a parent's end is dropped.
    """
    parents = [row[0] for row in await connection.fetch(_PARENTS)]
    if not parents:
        return 0
    runs, now = await lock_runs(connection, parents)
    taken = await _add(connection, log, runs, parents, now, BATCH)
    await log.write(connection)
    return taken


async def tell_before_the_end(connection: asyncpg.Connection, log: ChangeLog, runs: Iterable[Run], now: datetime) -> None:
    """Tells runs that are about to end, and are locked, of all that their subtasks did; the log is the caller's to write."""
    parents = {run.task_id: run for run in runs if run.has_children and not run.state.ended}
    if parents:
        await _add(connection, log, parents, sorted(parents), now, _EVERY)


async def _add(
    connection: asyncpg.Connection, log: ChangeLog, runs: dict[str, Run], parents: list[str], now: datetime, most: int
) -> int:
    changes = await take_changes(connection, parents, most)
    for (tenant_id, parent_id), change, actor in changes:
        run = runs.get(parent_id)
        if run is not None and run.tenant_id == tenant_id:
            log.add(run, change, actor, now)
    return len(changes)
