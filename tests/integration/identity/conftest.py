"""A running identity service with a migrated database."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from guildmesh.identity.v1 import identity_service_pb2 as pb
from guildmesh.identity.v1 import identity_service_pb2_grpc as pb_grpc
from guildmesh.identity.v1 import user_pb2
from pydantic import SecretStr

from services.common.context import Principal
from services.common.db.migrations import migrate
from services.identity.bootstrap import open_service
from services.identity.settings import ServingSettings
from tests.support.service import TestServer, mesh_certificates, metadata, running

OPERATOR = Principal("root", "default", frozenset({"operator"}))


@pytest.fixture(scope="session")
def identity_tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mesh_certificates(tmp_path_factory.mktemp("identity-tls"))


@pytest.fixture(scope="session")
def make_settings(postgres_url: str, identity_tls: Path) -> Callable[..., ServingSettings]:
    """Settings of an identity service on free ports; its database is migrated."""
    master_key = base64.b64encode(os.urandom(32)).decode()

    def make(**changes: Any) -> ServingSettings:
        values: dict[str, Any] = {
            "database_url": SecretStr(postgres_url),
            "tls_dir": identity_tls / "identity",
            "port": 0,
            "admin_port": 0,
            "db_pool_size": 4,
            "drain_seconds": 0,
            "jwt_secret_key": None,
            "jwt_algorithm": "HS256",
            "master_key": SecretStr(master_key),
        }
        return ServingSettings(_env_file=None, **(values | changes))

    migrate(make(), package="services.identity.storage.migrations", schema="identity")
    return make


@dataclass
class Identity:
    """A running service and a stub of the gateway's."""

    server: TestServer
    stub: pb_grpc.IdentityServiceAsyncStub

    async def tenant(self) -> str:
        """A new tenant."""
        tenant_id = f"t{uuid.uuid4().hex[:12]}"
        request = pb.CreateTenantRequest(tenant=user_pb2.Tenant(tenant_id=tenant_id))
        await self.stub.CreateTenant(request, metadata=metadata(OPERATOR))
        return tenant_id

    async def admin(self) -> Principal:
        """An admin of a new tenant."""
        return Principal("chief", await self.tenant(), frozenset({"admin"}))


@pytest.fixture
async def identity(make_settings: Callable[..., ServingSettings], identity_tls: Path) -> AsyncIterator[Identity]:
    async with running(open_service, make_settings(), identity_tls) as server:
        yield Identity(server, pb_grpc.IdentityServiceStub(server.channel()))
