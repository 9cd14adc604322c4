"""The signing keys, in PostgreSQL; their private halves are encrypted before they come here."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text

from services.common.db.engine_role import EngineDatabase
from services.identity.domain.token import PublicKey, StoredKey

_LOAD = text(
    """
    SELECT key_id, x, y, sealed_private_key, clock_timestamp() - activate_time AS age
    FROM signing_keys ORDER BY activate_time DESC, key_id DESC
    """
)
_LOCK = text("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE")
_ADD = text(
    """
    INSERT INTO signing_keys (key_id, x, y, sealed_private_key, activate_time)
    SELECT :key_id, :x, :y, :sealed, clock_timestamp() - CAST(:age AS interval)
    WHERE CAST(:younger AS interval) IS NULL
       OR NOT EXISTS (SELECT FROM signing_keys WHERE activate_time > clock_timestamp() - CAST(:younger AS interval))
    """
)
_FORGET = text(
    """
    DELETE FROM signing_keys old WHERE EXISTS (
      SELECT FROM signing_keys new
      WHERE new.activate_time > old.activate_time AND new.activate_time < clock_timestamp() - CAST(:keep AS interval)
    )
    """
)


class PostgresSigningKeys:
    """Implements the port SigningKeyStore."""

    def __init__(self, database: EngineDatabase) -> None:
        self._database = database

    async def load(self) -> list[StoredKey]:
        """All keys, the youngest first."""
        async with self._database.transaction() as connection:
            rows = await connection.execute(_LOAD)
            return [StoredKey(PublicKey(row.key_id, row.x, row.y), row.sealed_private_key, row.age) for row in rows]

    async def add(self, key: StoredKey, unless_younger_than: timedelta | None) -> bool:
        """Stores a key, unless one younger than that exists; the lock lets one replica decide at a time."""
        async with self._database.transaction() as connection:
            await connection.execute(_LOCK)
            result = await connection.execute(
                _ADD,
                {
                    "key_id": key.public.key_id,
                    "x": key.public.x,
                    "y": key.public.y,
                    "sealed": key.sealed_private_key,
                    "age": key.age,
                    "younger": unless_younger_than,
                },
            )
            return result.rowcount == 1

    async def forget(self, superseded_for: timedelta) -> int:
        """Deletes the keys whose successor has been active for longer than that."""
        async with self._database.transaction() as connection:
            result = await connection.execute(_FORGET, {"keep": superseded_for})
            return int(result.rowcount)
