"""The tenants of the mesh, in PostgreSQL."""

from __future__ import annotations

from sqlalchemy import text

from services.common.db.engine_role import EngineDatabase
from services.identity.domain.errors import TenantAlreadyExists
from services.identity.domain.user import Tenant
from services.identity.storage.rows import TENANT_COLUMNS, tenant_from_row

_CREATE = text(
    f"""
    INSERT INTO tenants (tenant_id, display_name) VALUES (:tenant_id, :display_name)
    ON CONFLICT DO NOTHING RETURNING {TENANT_COLUMNS}
    """  # noqa: S608 - the columns are ours
)
_LIST = text(
    f"SELECT {TENANT_COLUMNS} FROM tenants WHERE tenant_id > :after ORDER BY tenant_id LIMIT :limit"  # noqa: S608
)


class PostgresTenants:
    """Implements the port Tenants."""

    def __init__(self, database: EngineDatabase) -> None:
        self._database = database

    async def create(self, tenant_id: str, display_name: str) -> Tenant:
        """Stores a tenant. Raises TenantAlreadyExists."""
        async with self._database.transaction() as connection:
            result = await connection.execute(_CREATE, {"tenant_id": tenant_id, "display_name": display_name})
            row = result.one_or_none()
        if row is None:
            raise TenantAlreadyExists(tenant_id)
        return tenant_from_row(row)

    async def list(self, limit: int, after: str | None) -> list[Tenant]:
        """At most `limit` tenants by id, those after `after`."""
        async with self._database.transaction() as connection:
            rows = await connection.execute(_LIST, {"after": after or "", "limit": limit})
            return [tenant_from_row(row) for row in rows]
