"""Which tasks use which payloads, written in the transaction that makes a task use one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg

from services.common.errors import DomainError
from services.scheduler.domain.payload import PayloadReference, PayloadUse
from services.scheduler.domain.payload_errors import PayloadNotFound
from services.scheduler.domain.task import NewTask, Task

_Key = tuple[str, str]

# Until the commit nobody may delete them.
_LOCK = """
SELECT tenant_id, payload_id::text, size_bytes, sha256 FROM payloads
WHERE (payload_id, tenant_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[])) AND state = 2
ORDER BY payload_id FOR SHARE
"""
_USE = """
INSERT INTO task_payloads (tenant_id, task_id, payload_id, use)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::smallint[]) ON CONFLICT DO NOTHING
"""


async def lock_payloads(connection: asyncpg.Connection, keys: Sequence[_Key]) -> dict[_Key, PayloadReference]:
    """Those of the payloads (tenant and id) that are there, kept from being deleted until the end of the transaction."""
    once = sorted(set(keys))
    rows = await connection.fetch(_LOCK, [payload_id for _, payload_id in once], [tenant_id for tenant_id, _ in once])
    return {
        (row["tenant_id"], row["payload_id"]): PayloadReference(row["payload_id"], row["size_bytes"], row["sha256"].hex())
        for row in rows
    }


async def use_payloads(connection: asyncpg.Connection, uses: Sequence[tuple[str, str, str, PayloadUse]]) -> None:
    """Writes uses: tenant, task, payload, and what for."""
    if uses:
        await connection.execute(_USE, *(list(column) for column in zip(*uses, strict=True)))


async def lock_contexts(
    connection: asyncpg.Connection, items: Sequence[NewTask], answers: list[Task | DomainError | None]
) -> Mapping[_Key, PayloadReference]:
    """The payloads that new tasks name as their contexts; answers those that name one which is not there."""
    places = [place for place, item in enumerate(items) if item.context_payload is not None and answers[place] is None]
    if not places:
        return {}
    keys = {place: (items[place].tenant_id, str(items[place].context_payload)) for place in places}
    found = await lock_payloads(connection, list(keys.values()))
    for place, key in keys.items():
        if key in found:
            items[place].context_sha256 = found[key].sha256
        else:
            answers[place] = PayloadNotFound(key[1])
    return found


async def use_contexts(connection: asyncpg.Connection, items: Sequence[NewTask]) -> None:
    """Writes which payloads are the contexts of the tasks that were made."""
    await use_payloads(
        connection,
        [
            (item.tenant_id, item.task_id, item.context_payload, PayloadUse.CONTEXT)
            for item in items
            if item.context_payload is not None
        ],
    )
