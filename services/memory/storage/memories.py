"""Memories, in PostgreSQL with pgvector.

Search is an exact scan of what the filter leaves: a tenant's memories, or an owner's through its index. An approximate index
filters after it has found its neighbours and so gives too few for a small tenant among large ones (pgvector issue 785); an exact
scan has recall 1 and never gives fewer than asked for. Vectors have length 1, so the negative inner product `<#>` orders as the
cosine does and is cheaper.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.errors import ConcurrentChange
from services.common.ids import is_id, new_id
from services.common.json_values import compact
from services.memory.domain.errors import MemoryNotFound, RequestIdReused
from services.memory.domain.memory import Embedding, Match, Memory, NewMemory
from services.memory.storage.rows import MEMORY_COLUMNS, memory_from_row

_CREATE = text(
    f"""
    INSERT INTO memories (tenant_id, memory_id, owner, content, metadata, embedding, request_id, request_hash)
    VALUES (:tenant_id, CAST(:id AS uuid), :owner, :content, CAST(:metadata AS jsonb), CAST(:embedding AS vector),
            :request_id, :request_hash)
    ON CONFLICT (tenant_id, request_id) WHERE request_id IS NOT NULL DO NOTHING
    RETURNING {MEMORY_COLUMNS}
    """  # noqa: S608 - the columns are ours, here and below
)
_BY_REQUEST = text(
    f"""
    SELECT {MEMORY_COLUMNS}, request_hash FROM memories WHERE tenant_id = :tenant_id AND request_id = :request_id
    """  # noqa: S608
)
_GET = text(
    f"SELECT {MEMORY_COLUMNS} FROM memories WHERE tenant_id = :tenant_id AND memory_id = CAST(:id AS uuid)"  # noqa: S608
)
_DELETE = text("DELETE FROM memories WHERE tenant_id = :tenant_id AND memory_id = CAST(:id AS uuid)")


def _list(owner: str) -> str:
    return f"""
    SELECT {MEMORY_COLUMNS} FROM memories
    WHERE tenant_id = :tenant_id {owner} AND (CAST(:before AS uuid) IS NULL OR memory_id < CAST(:before AS uuid))
    ORDER BY memory_id DESC LIMIT :limit
    """  # noqa: S608


def _search(owner: str) -> str:
    return f"""
    SELECT {MEMORY_COLUMNS}, -distance AS score
    FROM (
      SELECT *, embedding <#> CAST(:embedding AS vector) AS distance FROM memories WHERE tenant_id = :tenant_id {owner}
      ORDER BY distance, memory_id LIMIT :limit
    ) nearest
    ORDER BY distance, memory_id
    """  # noqa: S608


# One statement each way, so that the planner never has to serve "any owner" and "one owner" with the same plan.
_OWNER = "AND owner = :owner"
_LIST, _LIST_OF_OWNER = text(_list("")), text(_list(_OWNER))
_SEARCH, _SEARCH_OF_OWNER = text(_search("")), text(_search(_OWNER))


class PostgresMemories:
    """Implements the port Memories."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_request(self, tenant_id: str, memory: NewMemory) -> Memory | None:
        """The memory that an earlier request with the same id made. Raises RequestIdReused."""
        async with self._database.tenant(tenant_id) as connection:
            return await _by_request(connection, tenant_id, memory)

    async def create(self, tenant_id: str, memory: NewMemory, embedding: Embedding) -> Memory:
        """Stores a memory, once per request id. Raises RequestIdReused."""
        async with self._database.tenant(tenant_id) as connection:
            result = await connection.execute(
                _CREATE,
                {
                    "tenant_id": tenant_id,
                    "id": new_id(),
                    "owner": memory.owner,
                    "content": memory.content,
                    "metadata": compact(memory.metadata),
                    "embedding": _vector(embedding),
                    "request_id": memory.request_id or None,
                    "request_hash": memory.fingerprint() if memory.request_id else None,
                },
            )
            row = result.one_or_none()
            if row is not None:
                return memory_from_row(row)
            # A second statement sees what the winner of the race has committed.
            winner = await _by_request(connection, tenant_id, memory)
        if winner is None:
            raise ConcurrentChange  # the winner was deleted in between
        return winner

    async def get(self, tenant_id: str, memory_id: str) -> Memory:
        """One memory. Raises MemoryNotFound."""
        if not is_id(memory_id):
            raise MemoryNotFound(memory_id)
        async with self._database.tenant(tenant_id) as connection:
            row = (await connection.execute(_GET, {"tenant_id": tenant_id, "id": memory_id})).one_or_none()
        if row is None:
            raise MemoryNotFound(memory_id)
        return memory_from_row(row)

    async def page(self, tenant_id: str, owner: str, limit: int, before: str | None) -> list[Memory]:
        """At most `limit` memories, newest first."""
        parameters: dict[str, object] = {"tenant_id": tenant_id, "before": before, "limit": limit}
        if owner:
            parameters["owner"] = owner
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.execute(_LIST_OF_OWNER if owner else _LIST, parameters)
            return [memory_from_row(row) for row in rows]

    async def delete(self, tenant_id: str, memory_id: str) -> None:
        """Deletes a memory. Raises MemoryNotFound."""
        if not is_id(memory_id):
            raise MemoryNotFound(memory_id)
        async with self._database.tenant(tenant_id) as connection:
            deleted = (await connection.execute(_DELETE, {"tenant_id": tenant_id, "id": memory_id})).rowcount
        if not deleted:
            raise MemoryNotFound(memory_id)

    async def search(self, tenant_id: str, owner: str, embedding: Embedding, limit: int) -> list[Match]:
        """The nearest memories, best first."""
        parameters: dict[str, object] = {"tenant_id": tenant_id, "embedding": _vector(embedding), "limit": limit}
        if owner:
            parameters["owner"] = owner
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.execute(_SEARCH_OF_OWNER if owner else _SEARCH, parameters)
            # Rounding may carry the cosine of two equal directions past 1.
            return [Match(memory_from_row(row), min(1.0, max(-1.0, row.score))) for row in rows]


async def _by_request(connection: AsyncConnection, tenant_id: str, memory: NewMemory) -> Memory | None:
    parameters = {"tenant_id": tenant_id, "request_id": memory.request_id}
    row = (await connection.execute(_BY_REQUEST, parameters)).one_or_none()
    if row is None:
        return None
    if row.request_hash != memory.fingerprint():
        raise RequestIdReused(memory.request_id)
    return memory_from_row(row)


def _vector(embedding: Embedding) -> str:
    """The text form that pgvector reads; nine digits give back a 32-bit float exactly."""
    return "[" + ",".join(f"{value:.9g}" for value in embedding) + "]"
