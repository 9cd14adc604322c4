"""Which dead letters a call replays, and in which order: the oldest first, but none before one that it depends on."""
# ruff: noqa: S608 - the names in the statements are ours, the values are arguments

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import asyncpg
from guildmesh.scheduler.v1.task_pb2 import Task as TaskMessage
from guildmesh.scheduler.v1.task_pb2 import TaskDependency

from services.scheduler.domain.dead_letter import MOST_REPLAYS
from services.scheduler.domain.dead_letter_filter import Conditions
from services.scheduler.domain.dependency import dependencies_first
from services.scheduler.storage.dead_letters import KEPT, Wanted

BYTES = 16 << 20
"""of specs and contexts that one call replays, the first of which may be larger."""
# Nearly always a task fails after what it depends on. It may be the first by a time limit of its own: then what it depends on is
# looked for along the graph, so far and no further.
_ROUNDS = 100
# In one order for all, so that two that replay the same wait for each other instead of deadlocking; who waited skips what the
# other did.
_LOCK = f"""
SELECT task_id::text FROM dead_letters d WHERE {{along}} AND {KEPT}{{besides}}
ORDER BY fail_time, task_id LIMIT {{limit}} FOR UPDATE OF d
"""
_SIZES = """
SELECT task_id::text, octet_length(spec) + COALESCE(octet_length(context), 0) AS bytes FROM finished_tasks
WHERE tenant_id = $1 AND task_id = ANY($2::uuid[])
"""
# Only specs that may have dependencies are read; the same bytes may also be part of a text.
_SPECS = """
SELECT task_id::text, spec FROM finished_tasks
WHERE tenant_id = $1 AND task_id = ANY($2::uuid[]) AND position($3::bytea IN spec) > 0
"""
_DEPENDENCIES = TaskMessage(dependencies=[TaskDependency()]).SerializeToString()[:-1]
_LATEST = """
WITH RECURSIVE replays AS (
  SELECT task_id AS first_id, replay_task_id, 1 AS place FROM dead_letters
  WHERE tenant_id = $1 AND task_id = ANY($2::uuid[]) AND replay_task_id IS NOT NULL
  UNION ALL
  SELECT r.first_id, d.replay_task_id, place + 1 FROM replays r
  JOIN dead_letters d ON d.tenant_id = $1 AND d.task_id = r.replay_task_id AND d.replay_task_id IS NOT NULL
)
SELECT DISTINCT ON (first_id) first_id::text, replay_task_id::text FROM replays ORDER BY first_id, place DESC
"""


async def choose_letters(
    connection: asyncpg.Connection, tenant_id: str, queue: str, conditions: Conditions, limit: int
) -> list[str]:
    """Locks at most `limit` dead letters that meet the conditions, whose tasks are not too large for one call together.

    One that depends on others of them is behind those, so also over calls; what does not meet the conditions is left alone.
    """
    new = await _lock(connection, Wanted(tenant_id, queue, conditions), limit)
    chosen, known = list(new), set(new)
    needs: dict[str, list[str]] = {}
    for _ in range(_ROUNDS):
        found = await _needs(connection, tenant_id, new)
        needs |= found
        others = {task_id for needed in found.values() for task_id in needed} - known
        if not others or len(chosen) >= limit + MOST_REPLAYS:
            break
        known |= others
        new = await _lock(connection, Wanted(tenant_id, queue, conditions, task_ids=sorted(others)), MOST_REPLAYS)
        chosen += new
    return await _within(connection, tenant_id, dependencies_first(chosen, needs)[:limit])


async def latest_replays(connection: asyncpg.Connection, tenant_id: str, task_ids: Iterable[str]) -> Mapping[str, str]:
    """What those of the tasks that were replayed were last replayed as; if that failed and was replayed, as what, and so on."""
    rows = await connection.fetch(_LATEST, tenant_id, sorted(task_ids))
    return {row[0]: row[1] for row in rows}


async def _lock(connection: asyncpg.Connection, wanted: Wanted, limit: int) -> list[str]:
    return [row[0] for row in await connection.fetch(wanted.statement(_LOCK, limit), *wanted.arguments)]


async def _needs(connection: asyncpg.Connection, tenant_id: str, task_ids: Sequence[str]) -> dict[str, list[str]]:
    """What the replays of these tasks would depend on, as things are."""
    rows = await connection.fetch(_SPECS, tenant_id, task_ids, _DEPENDENCIES)
    needs = {row[0]: [each.task_id.lower() for each in TaskMessage.FromString(row[1]).dependencies] for row in rows}
    if not needs:
        return {}
    latest = await latest_replays(connection, tenant_id, {each for needed in needs.values() for each in needed})
    return {task_id: [latest.get(each, each) for each in needed] for task_id, needed in needs.items()}


async def _within(connection: asyncpg.Connection, tenant_id: str, task_ids: Sequence[str]) -> list[str]:
    """The first of these tasks, as many as are not too large for one call together."""
    sizes = {row[0]: row[1] for row in await connection.fetch(_SIZES, tenant_id, task_ids)}
    chosen: list[str] = []
    size = 0
    for task_id in task_ids:
        size += sizes.get(task_id, 0)
        if chosen and size > BYTES:
            break
        chosen.append(task_id)
    return chosen
