"""Creates a tenant."""

from __future__ import annotations

from dataclasses import dataclass

from services.identity.domain.ports import Tenants
from services.identity.domain.user import Tenant


@dataclass(frozen=True, slots=True)
class CreateTenant:
    """Use case of IdentityService.CreateTenant; the method's policy asks for the role `operator`."""

    tenants: Tenants

    async def __call__(self, tenant_id: str, display_name: str) -> Tenant:
        """The new tenant. Raises TenantAlreadyExists."""
        return await self.tenants.create(tenant_id, display_name or tenant_id)
