"""Rows of the schema `identity` as domain objects."""

from __future__ import annotations

from typing import Any

from services.identity.domain.user import Tenant, User

USER_COLUMNS = "username, tenant_id, email, roles, active, create_time, erase_time, keys_destroy_time"
TENANT_COLUMNS = "tenant_id, display_name, create_time"


def user_from_row(row: Any) -> User:
    """A user from a row with USER_COLUMNS."""
    return User(
        row.username,
        row.tenant_id,
        row.email,
        tuple(row.roles),
        row.active,
        row.create_time,
        row.erase_time,
        row.keys_destroy_time,
    )


def tenant_from_row(row: Any) -> Tenant:
    """A tenant from a row with TENANT_COLUMNS."""
    return Tenant(row.tenant_id, row.display_name, row.create_time)
