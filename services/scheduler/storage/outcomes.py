"""How the dependencies of tasks have ended, as the workers that start these tasks are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import asyncpg

from services.scheduler.domain.dependency import Outcome
from services.scheduler.domain.task import State, Step
from services.scheduler.storage.journal import MOST_BYTES

MOST_BYTES_AT_ONCE = 64 << 20
"""of results that one statement reads for all of its leases."""
MOST_ERROR = 2000
"""characters of an error's message."""

_EDGES = """
SELECT tenant_id, task_id::text, upstream_id::text, name, upstream_state FROM task_dependencies
WHERE (tenant_id, task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[])) AND tenant_id = ANY($1) AND task_id = ANY($2)
ORDER BY task_id, place
"""
_ENDS = f"""
SELECT tenant_id, task_id::text, octet_length(result) AS size, error_reason, left(error_message, {MOST_ERROR}) AS error_message
FROM finished_tasks
WHERE (tenant_id, task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[])) AND tenant_id = ANY($1) AND task_id = ANY($2)
"""  # noqa: S608 - constants only
_RESULTS = """
SELECT tenant_id, task_id::text, result FROM finished_tasks
WHERE (tenant_id, task_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[])) AND tenant_id = ANY($1) AND task_id = ANY($2)
"""
_Key = tuple[str, str]


async def read_outcomes(
    connection: asyncpg.Connection, rows: Sequence[asyncpg.Record], steps: Mapping[str, Sequence[Step]]
) -> dict[str, list[Outcome]]:
    """The ends of the dependencies of tasks that are about to start, by task; results while there is room beside the steps."""
    dependants = [row for row in rows if row["blocked_by"] is not None]
    if not dependants:
        return {}
    edges = await connection.fetch(_EDGES, [row["tenant_id"] for row in dependants], [row["task_id"] for row in dependants])
    ends = {
        (row["tenant_id"], row["task_id"]): row
        for row in await connection.fetch(_ENDS, *_columns((edge["tenant_id"], edge["upstream_id"]) for edge in edges))
    }
    taken = _that_fit(edges, ends, steps)
    results: dict[_Key, bytes] = {}
    if taken:
        found = await connection.fetch(_RESULTS, *_columns((tenant_id, upstream_id) for tenant_id, _, upstream_id in taken))
        results = {(row["tenant_id"], row["task_id"]): row["result"] for row in found}
    outcomes: dict[str, list[Outcome]] = {}
    for tenant_id, task_id, upstream_id, name, state in edges:
        end, result = ends.get((tenant_id, upstream_id)), None
        if (tenant_id, task_id, upstream_id) in taken:
            result = results.get((tenant_id, upstream_id))
        outcomes.setdefault(task_id, []).append(
            Outcome(
                upstream_id,
                name,
                State(state),
                result,
                None if end is None else end["error_reason"],
                None if end is None else end["error_message"],
                # Of what is no longer kept the state is known.
                omitted=state == State.COMPLETED and result is None,
            )
        )
    return outcomes


def _columns(keys: Iterable[_Key]) -> tuple[list[str], list[str]]:
    once = sorted(set(keys))
    return [key[0] for key in once], [key[1] for key in once]


def _that_fit(
    edges: Sequence[asyncpg.Record], ends: Mapping[_Key, asyncpg.Record], steps: Mapping[str, Sequence[Step]]
) -> set[tuple[str, str, str]]:
    """Which edges come with a result: the first ones of each task, while there is room in its lease, and in all of them."""
    taken = set()
    room: dict[str, int] = {}
    left = MOST_BYTES_AT_ONCE
    for tenant_id, task_id, upstream_id, *_ in edges:
        if task_id not in room:
            room[task_id] = MOST_BYTES - sum(len(step.result) for step in steps.get(task_id, ()))
        end = ends.get((tenant_id, upstream_id))
        if end is None or end["size"] is None or end["size"] > min(room[task_id], left):
            continue
        room[task_id] -= end["size"]
        left -= end["size"]
        taken.add((tenant_id, task_id, upstream_id))
    return taken
