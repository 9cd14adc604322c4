"""What parents are to be told of their subtasks: that one was created, or has ended.

The transaction that creates or ends a subtask does not write to its parent's row, for which a thousand of them would wait: it
leaves a row here, and whoever has the parent's row locked makes events of what is there. So two transactions never wait for each
other by it, and an event comes once: it is written in the transaction that takes its row away.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from services.scheduler.domain.events import ChildCreated, ChildEnded
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import State

_LEAVE = """
INSERT INTO child_changes (tenant_id, parent_task_id, child_task_id, kind, queue, actor, state, reason)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::smallint[], $8::text[])
"""
# A subtask is there before it ends, and what was committed before the parent was locked is seen: so they come in order.
_TAKE = """
DELETE FROM child_changes WHERE (parent_task_id, position) IN (
  SELECT parent_task_id, position FROM child_changes WHERE parent_task_id = ANY($1::uuid[])
  ORDER BY parent_task_id, position LIMIT $2
) AND parent_task_id = ANY($1)
RETURNING position, tenant_id, parent_task_id::text, child_task_id::text, kind, queue, actor, state, reason
"""


async def leave_changes(connection: asyncpg.Connection, changes: Sequence[tuple[Run, str, State | None]]) -> None:
    """Leaves for their parents that these subtasks, each with who did it, were created (None) or have ended in a state."""
    rows = [
        (run.tenant_id, run.parent_task_id, run.task_id, run.kind, run.queue, actor, state, run.error_reason or "")
        for run, actor, state in changes
    ]
    await connection.execute(_LEAVE, *(list(column) for column in zip(*rows, strict=True)))


async def take_changes(
    connection: asyncpg.Connection, parents: Sequence[str], most: int
) -> list[tuple[tuple[str, str], ChildCreated | ChildEnded, str]]:
    """Takes away what is there for these parents, whose rows are locked, in order: tenant and parent, event, who did it."""
    rows = await connection.fetch(_TAKE, parents, most)
    return [
        (
            (tenant_id, parent_id),
            ChildCreated(child_id, kind, queue) if state is None else ChildEnded(child_id, kind, State(state).name, reason),
            actor,
        )
        for _, tenant_id, parent_id, child_id, kind, queue, actor, state, reason in sorted(rows, key=lambda row: row[0])
    ]
