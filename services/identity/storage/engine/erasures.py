"""The users of all tenants whose keys the scheduler is still to destroy, in PostgreSQL."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text

from services.common.db.engine_role import EngineDatabase
from services.identity.domain.user import User
from services.identity.storage.rows import USER_COLUMNS, user_from_row

_OPEN = text(
    f"""
    SELECT {USER_COLUMNS} FROM users WHERE erase_time IS NOT NULL AND keys_destroy_time IS NULL
    ORDER BY erase_time LIMIT :limit
    """  # noqa: S608 - the columns are ours
)
_DONE = text(
    f"""
    UPDATE users SET keys_destroy_time = COALESCE(keys_destroy_time, :time)
    WHERE tenant_id = :tenant_id AND username = :username
    RETURNING {USER_COLUMNS}
    """  # noqa: S608 - as above
)


class PostgresErasures:
    """Implements the port Erasures."""

    def __init__(self, database: EngineDatabase) -> None:
        self._database = database

    async def open(self, limit: int) -> list[User]:
        """At most `limit` of them."""
        async with self._database.transaction() as connection:
            return [user_from_row(row) for row in await connection.execute(_OPEN, {"limit": limit})]

    async def done(self, user: User, time: datetime) -> User:
        """Notes when it was done."""
        key = {"tenant_id": user.tenant_id, "username": user.username}
        async with self._database.transaction() as connection:
            row = (await connection.execute(_DONE, key | {"time": time})).one()
        return user_from_row(row)
