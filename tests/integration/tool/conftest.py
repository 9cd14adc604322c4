"""A running tool service with a migrated database."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from guildmesh.tool.v1 import tool_service_pb2 as pb
from guildmesh.tool.v1 import tool_service_pb2_grpc as pb_grpc
from pydantic import SecretStr

from services.common.context import Principal
from services.common.db.database import Database, open_database
from services.common.db.migrations import migrate
from services.tool.bootstrap import open_service
from services.tool.settings import ToolSettings
from tests.support.service import TestServer, mesh_certificates, metadata, running

Make = Callable[..., ToolSettings]


@pytest.fixture(scope="session")
def tool_tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mesh_certificates(tmp_path_factory.mktemp("tool-tls"))


@pytest.fixture(scope="session")
def make_settings(postgres_url: str, tool_tls: Path) -> Make:
    """Settings of a tool service on free ports; its database is migrated."""

    def make(**changes: Any) -> ToolSettings:
        values: dict[str, Any] = {
            "database_url": SecretStr(postgres_url),
            "tls_dir": tool_tls / "tool",
            "port": 0,
            "admin_port": 0,
            "db_pool_size": 8,
            "drain_seconds": 0,
            "sandbox": "bubblewrap",
        }
        return ToolSettings(_env_file=None, **(values | changes))

    migrate(make(), package="services.tool.storage.migrations", schema="tool")
    return make


@pytest.fixture
async def database(make_settings: Make) -> AsyncIterator[Database]:
    async with open_database(make_settings(), "tool") as opened:
        yield opened


@dataclass
class Tool:
    """A running service, and calls of one user of a tenant of its own."""

    server: TestServer
    stub: pb_grpc.ToolServiceAsyncStub
    caller: Principal

    async def create(self, name: str, source: str, **fields: Any) -> pb.Tool:
        tool = pb.Tool(tool_name=name, description="Does it.", source=source, **fields)
        return await self.stub.CreateTool(pb.CreateToolRequest(tool=tool), metadata=self.metadata)

    async def execute(self, name: str, arguments: dict[str, Any] | None = None, **fields: Any) -> pb.ExecuteToolResponse:
        request = pb.ExecuteToolRequest(tool_name=name, arguments=struct(arguments or {}), **fields)
        return await self.stub.ExecuteTool(request, metadata=self.metadata, timeout=60)

    async def python(self, code: str, **fields: Any) -> pb.ExecuteToolResponse:
        return await self.execute("python", {"code": code}, **fields)

    async def usages(self, **fields: Any) -> list[pb.ToolUsage]:
        answer = await self.stub.ListToolUsages(pb.ListToolUsagesRequest(**fields), metadata=self.metadata)
        return list(answer.tool_usages)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return metadata(self.caller)


def struct(value: dict[str, Any]) -> Struct:
    message = Struct()
    message.update(value)
    return message


def someone() -> Principal:
    """A user of a new tenant."""
    return Principal("ada", f"t{uuid.uuid4().hex[:12]}", frozenset({"user"}))


@pytest.fixture
async def tool(make_settings: Make, tool_tls: Path) -> AsyncIterator[Tool]:
    async with running(open_service, make_settings(), tool_tls) as server:
        yield Tool(server, pb_grpc.ToolServiceStub(server.channel()), someone())
