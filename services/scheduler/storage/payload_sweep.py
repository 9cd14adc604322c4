"""Finds payloads that nothing uses any more, over all tenants.

Each is looked at when its time has come: an upload that was given up, one that nobody came to use, and, every now and then, one
that tasks or schedules use, since those may be kept no longer. So nothing need be told of when tasks go, and a sweep may be
killed anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from services.common.db.engine_role import EngineDriver

MOST_AT_ONCE = 100

_LOCK = """
SELECT tenant_id, payload_id FROM payloads WHERE check_time <= clock_timestamp()
ORDER BY check_time LIMIT $1 FOR UPDATE SKIP LOCKED
"""
# Of tasks that are kept no longer.
_FORGET_USES = """
DELETE FROM task_payloads u
WHERE (u.payload_id, u.tenant_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.task_id = u.task_id AND t.tenant_id = u.tenant_id)
  AND NOT EXISTS (SELECT FROM finished_tasks f WHERE f.task_id = u.task_id AND f.tenant_id = u.tenant_id)
"""
# What is being deleted is looked at again soon, lest the one who does it is killed.
_MARK = """
UPDATE payloads p SET state = CASE WHEN u.used THEN p.state ELSE 3 END,
  check_time = clock_timestamp() + CASE WHEN u.used THEN $3::interval ELSE $4::interval END
FROM (
  SELECT k.payload_id, k.tenant_id,
    EXISTS (SELECT FROM task_payloads t WHERE t.payload_id = k.payload_id AND t.tenant_id = k.tenant_id)
      OR EXISTS (SELECT FROM schedules s WHERE s.context_payload = k.payload_id AND s.tenant_id = k.tenant_id) AS used
  FROM unnest($1::uuid[], $2::text[]) AS k (payload_id, tenant_id)
) u
WHERE p.payload_id = u.payload_id AND p.tenant_id = u.tenant_id
RETURNING p.tenant_id, p.payload_id::text, p.state
"""
_FORGET = """
DELETE FROM payloads WHERE (payload_id, tenant_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[])) AND state = 3
"""


class PayloadSweep:
    """The statements of the sweep; several processes may run them at once."""

    def __init__(self, database: EngineDriver, check: timedelta, again: timedelta) -> None:
        """One that is used is looked at again after `check`; one that is being deleted after `again`, which is time enough."""
        self._database = database
        self._check = check
        self._again = again

    async def mark(self) -> Sequence[tuple[str, str]]:
        """Marks what nothing uses; gives tenants and ids of those whose objects are to be deleted."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(_LOCK, MOST_AT_ONCE)
            if not rows:
                return []
            # In statements of their own, whose snapshots have what was committed before the locks were ours: who comes to use a
            # payload locks its row first, and finds it gone after us.
            keys = [row["payload_id"] for row in rows], [row["tenant_id"] for row in rows]
            await connection.execute(_FORGET_USES, *keys)
            marked = await connection.fetch(_MARK, *keys, self._check, self._again)
        return [(row["tenant_id"], row["payload_id"]) for row in marked if row["state"] == 3]

    async def forget(self, payloads: Sequence[tuple[str, str]]) -> None:
        """Deletes the rows of those whose objects are gone."""
        if payloads:
            async with self._database.transaction() as connection:
                await connection.execute(_FORGET, [payload_id for _, payload_id in payloads], [tenant for tenant, _ in payloads])
