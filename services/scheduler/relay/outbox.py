"""The outbox: what Kafka has not acknowledged yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from services.common.db.database import raw
from services.common.db.engine_role import EngineDatabase

MOST_ROWS = 2000
MOST_BYTES = 8 << 20

# Each shard gives its oldest rows, up to a number and a size, so that a backlog of one does not hold up another; the first
# row is always taken.
_READ = """
SELECT shard, position, task_id, number, snapshot, value, headers FROM (
  SELECT o.shard, o.position, o.task_id, o.number, o.snapshot, e.value, e.headers,
    sum(octet_length(e.value)) OVER (PARTITION BY o.shard ORDER BY o.position) - octet_length(e.value) AS bytes_before
  FROM unnest($1::smallint[]) AS s (shard) CROSS JOIN LATERAL (
    SELECT * FROM outbox WHERE outbox.shard = s.shard ORDER BY outbox.position LIMIT $2
  ) o
  JOIN task_events e ON e.tenant_id = o.tenant_id AND e.task_id = o.task_id AND e.number = o.number
) rows WHERE bytes_before < $3 ORDER BY shard, position
"""
_DELETE = """
DELETE FROM outbox WHERE (shard, position) IN (SELECT * FROM unnest($1::smallint[], $2::bigint[]))
"""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One event to publish."""

    shard: int
    position: int
    task_id: str
    number: int
    snapshot: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


class Outbox:
    """The rows of all shards."""

    def __init__(self, database: EngineDatabase) -> None:
        self._database = database

    async def read(self, shards: Sequence[int]) -> list[OutboxRow]:
        """The oldest rows of some shards. A task's rows come in order of their numbers: they were written under its row lock."""
        async with self._database.transaction() as connection:
            rows = await (await raw(connection)).fetch(_READ, list(shards), MOST_ROWS // len(shards), MOST_BYTES // len(shards))
        return [
            OutboxRow(
                shard=row["shard"],
                position=row["position"],
                task_id=str(row["task_id"]),
                number=row["number"],
                snapshot=row["snapshot"],
                value=row["value"],
                headers=[(name, value.encode()) for name, value in json.loads(row["headers"])],
            )
            for row in rows
        ]

    async def delete(self, rows: Sequence[OutboxRow]) -> None:
        """Deletes exactly what Kafka acknowledged; never a range, in which a late commit could hide."""
        async with self._database.transaction() as connection:
            await (await raw(connection)).execute(_DELETE, [row.shard for row in rows], [row.position for row in rows])
