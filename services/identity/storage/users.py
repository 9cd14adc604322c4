"""Users of one tenant, in PostgreSQL."""

from __future__ import annotations

from sqlalchemy import text

from services.common.db.database import Database
from services.identity.domain.errors import TenantNotFound, UserAlreadyExists, UserNotFound
from services.identity.domain.user import NewUser, User
from services.identity.storage.rows import USER_COLUMNS, user_from_row

# A taken name may belong to a tenant that this transaction cannot see; only the unique index knows, so it decides.
_CREATE = text(
    f"""
    INSERT INTO users (tenant_id, username, email, roles, password_hash)
    SELECT tenant_id, :username, :email, CAST(:roles AS text[]), :password_hash FROM tenants WHERE tenant_id = :tenant_id
    ON CONFLICT ((lower(username))) DO NOTHING
    RETURNING {USER_COLUMNS}
    """  # noqa: S608 - the columns are ours
)
# What a row is without belongs to the row; who logs in finds no such hash.
_ERASE = text(
    f"""
    UPDATE users SET active = false, email = '', password_hash = '', erase_time = COALESCE(erase_time, clock_timestamp())
    WHERE tenant_id = :tenant_id AND username = :username
    RETURNING {USER_COLUMNS}
    """  # noqa: S608 - as above
)
_TENANT = text("SELECT 1 FROM tenants WHERE tenant_id = :tenant_id")
_GET = text(f"SELECT {USER_COLUMNS} FROM users WHERE tenant_id = :tenant_id AND username = :username")  # noqa: S608
_LIST = text(
    f"""
    SELECT {USER_COLUMNS} FROM users
    WHERE tenant_id = :tenant_id AND username > :after ORDER BY username LIMIT :limit
    """  # noqa: S608 - as above
)


class PostgresUsers:
    """Implements the port Users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, user: NewUser, password_hash: str) -> User:
        """Stores a user. Raises UserAlreadyExists, TenantNotFound."""
        async with self._database.tenant(user.tenant_id) as connection:
            result = await connection.execute(
                _CREATE,
                {
                    "tenant_id": user.tenant_id,
                    "username": user.username,
                    "email": user.email,
                    "roles": list(user.roles),
                    "password_hash": password_hash,
                },
            )
            row = result.one_or_none()
            if row is not None:
                return user_from_row(row)
            tenant = (await connection.execute(_TENANT, {"tenant_id": user.tenant_id})).one_or_none()
        if tenant is None:
            raise TenantNotFound(user.tenant_id)
        raise UserAlreadyExists(user.username)

    async def get(self, tenant_id: str, username: str) -> User:
        """One user. Raises UserNotFound."""
        async with self._database.tenant(tenant_id) as connection:
            row = (await connection.execute(_GET, {"tenant_id": tenant_id, "username": username})).one_or_none()
        if row is None:
            raise UserNotFound(username)
        return user_from_row(row)

    async def erase(self, tenant_id: str, username: str) -> User:
        """Erases a user. Raises UserNotFound."""
        async with self._database.tenant(tenant_id) as connection:
            row = (await connection.execute(_ERASE, {"tenant_id": tenant_id, "username": username})).one_or_none()
            if row is None:
                raise UserNotFound(username)
        return user_from_row(row)

    async def list(self, tenant_id: str, limit: int, after: str | None) -> list[User]:
        """At most `limit` users by username, those after `after`; no username is empty, so an empty text begins."""
        async with self._database.tenant(tenant_id) as connection:
            rows = await connection.execute(_LIST, {"tenant_id": tenant_id, "after": after or "", "limit": limit})
            return [user_from_row(row) for row in rows]
