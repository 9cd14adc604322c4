"""The secrets of webhooks in their table: sealed with the mesh's master key where there is one, plain where there is none.

Both secrets of a webhook are sealed with the same master key, in the same statement. What is sealed is bound to the tenant, the
webhook and which of its two secrets it is, so that it opens in no other row and in no other column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg

from services.common.key_cipher import CannotOpen
from services.common.master_keys import MasterKeys
from services.scheduler.storage.sealing import PAGE, SealedPage

SECRET_COLUMNS = ("secret", "previous_secret", "master_key_id")
Kept = tuple[bytes, bytes | None, str | None]
"""SECRET_COLUMNS of a row; the last one is None when the others are plain."""
_NOT_WITH = f"""
SELECT uid::text, tenant_id, {", ".join(SECRET_COLUMNS)} FROM webhooks WHERE master_key_id IS DISTINCT FROM $1 AND uid > $2
ORDER BY webhooks.uid LIMIT {PAGE} FOR NO KEY UPDATE
"""  # noqa: S608 - constants only
_SEAL = """
UPDATE webhooks w SET secret = s.secret, previous_secret = s.previous_secret, master_key_id = s.master_key_id
FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::text[]) s (uid, secret, previous_secret, master_key_id) WHERE w.uid = s.uid
"""


class WebhookSecrets:
    """Seals and opens the secrets of webhooks."""

    name = "webhook_secrets"
    """of what `Sealing` seals anew."""

    def __init__(self, masters: MasterKeys) -> None:
        """Without `masters` they are kept as they are."""
        self._masters = masters

    def seal(self, tenant_id: str, uid: str, secret: bytes, previous_secret: bytes | None) -> Kept:
        """What is kept of a webhook's secrets."""
        if not self._masters:
            return secret, previous_secret, None
        previous = None
        if previous_secret is not None:
            previous = self._masters.seal(_name(tenant_id, uid, "previous_secret"), previous_secret)
        return self._masters.seal(_name(tenant_id, uid, "secret"), secret), previous, self._masters.newest_id

    def open(self, row: Mapping[str, Any]) -> tuple[bytes | None, bytes | None]:
        """The secret and the one before in a row with uid, tenant_id and SECRET_COLUMNS.

        None for both when the row is sealed with a master key that this process does not have, or is not as it was sealed.
        """
        secret, previous, master_key_id = (row[name] for name in SECRET_COLUMNS)
        if master_key_id is None:
            return secret, previous
        tenant_id, uid = row["tenant_id"], str(row["uid"])
        try:
            secret = self._masters.open(master_key_id, _name(tenant_id, uid, "secret"), secret)
            if previous is not None:
                previous = self._masters.open(master_key_id, _name(tenant_id, uid, "previous_secret"), previous)
        except CannotOpen:
            return None, None
        return secret, previous

    async def seal_page(self, connection: asyncpg.Connection, after: str) -> SealedPage:
        """See SealedTable; plain secrets are sealed, too."""
        if not self._masters:
            return SealedPage()
        rows = await connection.fetch(_NOT_WITH, self._masters.newest_id, after)
        anew = []
        for row in rows:
            secret, previous = self.open(row)
            if secret is not None:
                anew.append((row["uid"], *self.seal(row["tenant_id"], row["uid"], secret, previous)))
        if anew:
            await connection.execute(_SEAL, *(list(column) for column in zip(*anew, strict=True)))
        return SealedPage(len(anew), len(rows) - len(anew), rows[-1]["uid"] if len(rows) == PAGE else None)


def _name(tenant_id: str, uid: str, column: str) -> str:
    # The uid has no slash and the column is one of two, so no two webhooks have the same name, whatever a tenant is called.
    return f"guildmesh.scheduler.webhooks/{uid}/{column}/{tenant_id}"
