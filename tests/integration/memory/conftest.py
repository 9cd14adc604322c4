"""A running memory service with a migrated database."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from guildmesh.memory.v1 import memory_service_pb2_grpc as pb_grpc
from pydantic import SecretStr

from services.common.context import Principal
from services.common.db.migrations import migrate
from services.memory.bootstrap import open_service
from services.memory.settings import ServingSettings
from tests.support.service import TestServer, mesh_certificates, running

MakeSettings = Callable[..., ServingSettings]


@pytest.fixture(scope="session")
def memory_tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mesh_certificates(tmp_path_factory.mktemp("memory-tls"))


@pytest.fixture(scope="session")
def make_memory_settings(postgres_url: str, memory_tls: Path) -> MakeSettings:
    """Settings of a memory service on free ports; its database is migrated."""

    def make(**changes: Any) -> ServingSettings:
        values: dict[str, Any] = {
            "database_url": SecretStr(postgres_url),
            "tls_dir": memory_tls / "memory",
            "port": 0,
            "admin_port": 0,
            "db_pool_size": 4,
            "drain_seconds": 0,
        }
        return ServingSettings(_env_file=None, **(values | changes))

    migrate(make(), package="services.memory.storage.migrations", schema="memory")
    return make


@pytest.fixture
async def memory_server(make_memory_settings: MakeSettings, memory_tls: Path) -> AsyncIterator[TestServer]:
    async with running(open_service, make_memory_settings(), memory_tls) as server:
        yield server


@pytest.fixture
def stub(memory_server: TestServer) -> pb_grpc.MemoryServiceAsyncStub:
    """A stub with the certificate of the gateway."""
    return pb_grpc.MemoryServiceStub(memory_server.channel())


def someone(tenant_id: str | None = None, name: str = "ada") -> Principal:
    """A user, of a new tenant unless one is named."""
    return Principal(name, tenant_id or f"t{uuid.uuid4().hex[:12]}", frozenset({"user"}))
