"""The outbox: what Kafka has not acknowledged yet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from services.common.db.engine_role import EngineDriver
from services.common.failpoints import fail_point
from services.scheduler.storage.marks import PositionMark
from services.scheduler.storage.outbox_codec import OutboxRecord, unpack

MOST_ROWS = 500
MOST_BYTES = 4 << 20

# The oldest rows, up to a number and a size; the first one is always taken.
_READ = """
SELECT position, payload FROM (
  SELECT position, payload, sum(octet_length(payload)) OVER (ORDER BY position) - octet_length(payload) AS bytes_before
  FROM (SELECT position, payload FROM outbox WHERE lane = $1 AND position > $4 ORDER BY position LIMIT $2) o
) rows WHERE bytes_before < $3 ORDER BY position
"""
_DELETE = "DELETE FROM outbox WHERE lane = $1 AND position = ANY($2::bigint[])"


@dataclass(slots=True)
class OutboxBatch:
    """The oldest rows of a lane."""

    lane: int
    positions: list[int]
    records: list[OutboxRecord]
    """in the order they were made: a task's come in order of their numbers, since they were written under its row lock."""
    full: bool
    """whether more may wait than was read."""


class Outbox:
    """The rows of all lanes."""

    def __init__(self, database: EngineDriver) -> None:
        self._database = database
        self._marks: dict[int, PositionMark] = {}
        self._newest: dict[int, int] = {}

    async def read(self, lane: int) -> OutboxBatch:
        """The oldest rows of a lane."""
        async with self._database.transaction() as connection:
            mark = self._marks.setdefault(lane, PositionMark())
            now = time.monotonic()
            above = mark.above(now)
            rows: Sequence[tuple[int, bytes]] = await connection.fetch(_READ, lane, MOST_ROWS, MOST_BYTES, above)
        newest = self._newest[lane] = max(self._newest.get(lane, 0), rows[-1][0] if rows else 0)
        mark.seen(rows[0][0] if rows else None, newest, now)
        await fail_point("relay.outbox.after_read")
        records = [record for _, payload in rows for record in unpack(payload)]
        full = len(rows) == MOST_ROWS or sum(len(payload) for _, payload in rows) > MOST_BYTES // 2
        return OutboxBatch(lane, [position for position, _ in rows], records, full)

    async def delete(self, batch: OutboxBatch) -> None:
        """Deletes exactly what Kafka acknowledged; never a range, in which a late commit could hide."""
        await fail_point("relay.outbox.before_delete")
        async with self._database.transaction() as connection:
            await connection.execute(_DELETE, batch.lane, batch.positions)
            await fail_point("relay.outbox.before_commit", connection.terminate)
        await fail_point("relay.outbox.after_commit")
