"""The steps and signals of tasks that have not ended, as one transaction reads and writes them."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
from google.protobuf.struct_pb2 import Value

from services.scheduler.domain.run import Run

_KNOWN = """
SELECT task_id, step_id, result FROM task_steps
WHERE (tenant_id, task_id, step_id) IN (SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[]))
  AND tenant_id = ANY($1) AND task_id = ANY($2)
"""
_WRITE = """
INSERT INTO task_steps (tenant_id, task_id, step_id, number, attempt, result)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[], $4::int[], $5::int[], $6::bytea[])
"""
_HELD = """
SELECT count(*), COALESCE(sum(octet_length(result)), 0)::bigint FROM task_steps WHERE tenant_id = $1 AND task_id = $2
"""
MOST_ENTRIES = 1000
# With a context and a description it must fit into a message of services.common.grpcx.server.
MOST_BYTES = 8 << 20


class Journal:
    """The entries that a transaction asks for, and those that it adds. The runs are locked by it."""

    def __init__(self, known: dict[tuple[str, str], bytes]) -> None:
        self._known = known
        self._rows: list[tuple[str, str, str, int, int, bytes]] = []

    @classmethod
    async def open(cls, connection: asyncpg.Connection, wanted: Sequence[tuple[Run, str]]) -> Journal:
        """Reads which of these steps, each of a run, are there already."""
        if not wanted:
            return cls({})
        columns = zip(*((run.tenant_id, run.task_id, step_id) for run, step_id in wanted), strict=True)
        rows = await connection.fetch(_KNOWN, *(list(column) for column in columns))
        return cls({(str(row["task_id"]), row["step_id"]): row["result"] for row in rows})

    @staticmethod
    async def has_room(connection: asyncpg.Connection, run: Run, size: int) -> bool:
        """Whether a run may get another entry of so many bytes from outside: all of them travel in one lease."""
        entries: int
        held: int
        entries, held = await connection.fetchrow(_HELD, run.tenant_id, run.task_id)
        return entries < MOST_ENTRIES and held + size <= MOST_BYTES

    def result(self, run: Run, step_id: str) -> bytes | None:
        """The result of a step that was asked for, None when it is not there."""
        return self._known.get((run.task_id, step_id))

    def add(self, run: Run, step_id: str, number: int, attempt: int, result: bytes) -> None:
        """Adds a step, with the number of its event."""
        self._known[run.task_id, step_id] = result
        run.has_steps = True
        self._rows.append((run.tenant_id, run.task_id, step_id, number, attempt, result))

    async def write(self, connection: asyncpg.Connection) -> None:
        """Writes what was added."""
        if self._rows:
            await connection.execute(_WRITE, *(list(column) for column in zip(*self._rows, strict=True)))


def signal_result(value: bytes | None) -> bytes:
    """The result that a signal of this value has in the journal; None for one that did not come in time."""
    result = Value()
    if value is None:
        result.struct_value.fields["timed_out"].bool_value = True
    else:
        result.struct_value.fields["value"].MergeFromString(value)
    return result.SerializeToString(deterministic=True)
