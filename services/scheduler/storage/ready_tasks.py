"""Reads what waits and what runs of the queues that one replica decides for."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from services.scheduler.domain.head import Head, LaneKey, Page, Place, Seen
from services.scheduler.domain.limits import QueueKey

_HEAD = """t.task_id::text, t.queue_tenant, t.queue, t.tenant_id, t.kind, t.concurrency_key, t.priority, t.position, t.attempt"""
_WAITS = "t.state = 1 AND t.queue_tenant IS NOT NULL"
# What has no time left waits for its end by the sweeper alone, as for the statement that starts tasks.
_IN_TIME = """(t.deadline IS NULL OR t.deadline > statement_timestamp())
    AND (t.start_by IS NULL OR t.start_by > statement_timestamp())"""
_SEEN = f"""{_HEAD}, t.state, COALESCE(extract(epoch FROM clock_timestamp() - t.lease_expires), 0)::float8,
  t.state = 1 AND {_IN_TIME}"""
_LANE = "queue_tenant, queue, tenant_id, kind"
_RUNNING = f"SELECT {_SEEN} FROM tasks t WHERE t.state = 2 AND t.queue_tenant IS NOT NULL"  # noqa: S608 - constants only
_LOOK = f"SELECT {_SEEN} FROM tasks t WHERE t.task_id = ANY($1::uuid[]) AND t.queue_tenant IS NOT NULL"  # noqa: S608
# One step along the index for each lane, however many tasks wait in it.
_LANES = f"""
WITH RECURSIVE lanes AS (
  (SELECT {_LANE} FROM tasks t WHERE {_WAITS} ORDER BY {_LANE} LIMIT 1)
  UNION ALL
  SELECT n.* FROM lanes l CROSS JOIN LATERAL (
    SELECT t.queue_tenant, t.queue, t.tenant_id, t.kind FROM tasks t WHERE {_WAITS}
      AND (t.queue_tenant, t.queue, t.tenant_id, t.kind) > (l.queue_tenant, l.queue, l.tenant_id, l.kind)
    ORDER BY {_LANE} LIMIT 1
  ) n
)
SELECT h.* FROM lanes l CROSS JOIN LATERAL (
  SELECT {_HEAD} FROM tasks t
  WHERE {_WAITS} AND t.queue_tenant = l.queue_tenant AND t.queue = l.queue AND t.tenant_id = l.tenant_id AND t.kind = l.kind
    AND {_IN_TIME}
  ORDER BY (-t.priority), t.position LIMIT $1
) h
"""  # noqa: S608 - constants only
_PAGES = f"""
SELECT h.* FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::bigint[])
  AS l (queue_tenant, queue, tenant_id, kind, place, position)
CROSS JOIN LATERAL (
  SELECT {_HEAD} FROM tasks t
  WHERE {_WAITS} AND t.queue_tenant = l.queue_tenant AND t.queue = l.queue AND t.tenant_id = l.tenant_id AND t.kind = l.kind
    AND {_IN_TIME}
    AND ((-t.priority), t.position) > (l.place, l.position)
  ORDER BY (-t.priority), t.position LIMIT $7
) h
"""  # noqa: S608 - constants only
_OF_KEYS = f"""
SELECT h.* FROM unnest($1::text[], $2::text[], $3::text[]) AS k (queue_tenant, queue, key) CROSS JOIN LATERAL (
  SELECT {_HEAD} FROM tasks t
  WHERE {_WAITS} AND t.queue_tenant = k.queue_tenant AND t.queue = k.queue AND t.concurrency_key = k.key
    AND {_IN_TIME}
  ORDER BY (-t.priority), t.position LIMIT $4
) h
"""  # noqa: S608 - constants only


async def read_running(connection: asyncpg.Connection, lease_seconds: float) -> list[Seen]:
    """All that runs."""
    return [_seen(row, lease_seconds) for row in await connection.fetch(_RUNNING)]


async def look(connection: asyncpg.Connection, task_ids: Sequence[str], lease_seconds: float) -> list[Seen]:
    """The tasks of these that have not ended and are decided on."""
    return [_seen(row, lease_seconds) for row in await connection.fetch(_LOOK, task_ids)]


async def read_lanes(connection: asyncpg.Connection, window: int) -> list[Page]:
    """The first tasks of each lane in which any wait that have time left."""
    pages: dict[LaneKey, list[Head]] = {}
    for row in await connection.fetch(_LANES, window):
        head = _head(row)
        pages.setdefault(head.lane, []).append(head)
    return [Page(lane, heads, len(heads) == window) for lane, heads in pages.items()]


async def read_pages(connection: asyncpg.Connection, lanes: Sequence[tuple[LaneKey, Place]], window: int) -> list[Page]:
    """The next tasks of lanes, behind a place each."""
    columns = [list(column) for column in zip(*((*lane, *place) for lane, place in lanes), strict=True)]
    pages: dict[LaneKey, list[Head]] = {lane: [] for lane, _ in lanes}
    for row in await connection.fetch(_PAGES, *columns, window):
        head = _head(row)
        pages[head.lane].append(head)
    return [Page(lane, heads, len(heads) == window) for lane, heads in pages.items()]


async def read_keys(connection: asyncpg.Connection, keys: Sequence[tuple[QueueKey, str]], most: int) -> list[list[Head]]:
    """The first tasks that wait for each concurrency key."""
    found: dict[tuple[QueueKey, str], list[Head]] = {key: [] for key in keys}
    arrays = [queue[0] for queue, _ in keys], [queue[1] for queue, _ in keys], [key for _, key in keys]
    for row in await connection.fetch(_OF_KEYS, *arrays, most):
        head = _head(row)
        found[head.lane.of_queue, str(head.key)].append(head)
    return list(found.values())


def _head(row: asyncpg.Record) -> Head:
    return Head(row[0], LaneKey(row[1], row[2], row[3], row[4]), row[5], (-row[6], row[7]), row[8])


def _seen(row: asyncpg.Record, lease_seconds: float) -> Seen:
    running = row[9] == 2
    # Since its last renewal, which is the latest that is known of when it runs.
    seconds = max(0.0, row[10] + lease_seconds) if running else 0.0
    return Seen(_head(row), running, row[11], seconds)
