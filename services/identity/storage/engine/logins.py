"""The login lookup over all tenants, in PostgreSQL."""

from __future__ import annotations

from sqlalchemy import text

from services.common.db.engine_role import EngineDatabase
from services.identity.domain.user import Login
from services.identity.storage.rows import USER_COLUMNS, user_from_row

# lower() on both sides uses the unique index; the second condition asks for the exact name.
_FIND = text(
    f"""
    SELECT {USER_COLUMNS}, password_hash FROM users
    WHERE lower(username) = lower(:username) AND username = :username AND active
    """  # noqa: S608 - the columns are ours
)
_REPLACE_HASH = text(
    """
    UPDATE users SET password_hash = :new WHERE tenant_id = :tenant_id AND username = :username AND password_hash = :old
    """
)


class PostgresLogins:
    """Implements the port Logins."""

    def __init__(self, database: EngineDatabase) -> None:
        self._database = database

    async def find(self, username: str) -> Login | None:
        """The active user with exactly this name, or None."""
        async with self._database.transaction() as connection:
            row = (await connection.execute(_FIND, {"username": username})).one_or_none()
        return None if row is None else Login(user_from_row(row), row.password_hash)

    async def replace_hash(self, login: Login, password_hash: str) -> None:
        """Stores a new hash in place of the one in `login`."""
        async with self._database.transaction() as connection:
            await connection.execute(
                _REPLACE_HASH,
                {
                    "new": password_hash,
                    "old": login.password_hash,
                    "tenant_id": login.user.tenant_id,
                    "username": login.user.username,
                },
            )
