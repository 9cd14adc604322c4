"""How many tasks each queue has in each state, without looking at the tasks."""

from __future__ import annotations

import asyncpg

from services.scheduler.domain.task import State

_COUNT = """
SELECT queue, state, sum(tasks)::bigint FROM (
  SELECT queue, state, tasks FROM task_counts
  UNION ALL SELECT c.* FROM task_count_changes, unnest(queues, states, changes) AS c
) counted GROUP BY queue, state
"""
_OPEN = f"""
SELECT coalesce(sum(tasks), 0)::bigint FROM (
  SELECT queue, state, tasks FROM task_counts
  UNION ALL SELECT c.* FROM task_count_changes, unnest(queues, states, changes) AS c
) counted WHERE queue = $1 AND state IN ({", ".join(str(int(state)) for state in State if not state.ended)})
"""  # noqa: S608 - constants only
# In the order of the keys, so that two sweepers wait for each other instead of deadlocking.
_SUM_UP = """
WITH gone AS (DELETE FROM task_count_changes RETURNING queues, states, changes)
INSERT INTO task_counts AS c (queue, state, tasks)
SELECT queue, state, sum(change) FROM gone, unnest(queues, states, changes) AS g (queue, state, change)
GROUP BY queue, state ORDER BY queue, state
ON CONFLICT (queue, state) DO UPDATE SET tasks = c.tasks + EXCLUDED.tasks
"""

Counts = dict[tuple[str, State], int]


async def count_tasks(connection: asyncpg.Connection) -> Counts:
    """The number of tasks by queue and state, of every tenant."""
    return {(row[0], State(row[1])): row[2] for row in await connection.fetch(_COUNT)}


async def count_open_tasks(connection: asyncpg.Connection, queue: str) -> int:
    """The number of tasks that have not ended in all queues of a name, whoever owns them; exact: each commit counts its own."""
    number: int = await connection.fetchval(_OPEN, queue)
    return number


async def sum_up_counts(connection: asyncpg.Connection) -> None:
    """Adds the changes of all commits since the last time to the counts, so that counting stays cheap."""
    await connection.execute(_SUM_UP)
