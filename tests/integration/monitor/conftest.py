"""A running monitor over the session's PostgreSQL, Redis and Kafka, with a scheduler stand-in that it can ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from guildmesh.scheduler.v1 import scheduler_service_pb2 as scheduler_pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as scheduler_grpc

from services.common.errors import DependencyUnavailable
from services.common.grpcx.server import Registration
from services.common.service import RunningService, Service
from services.common.settings import ServiceSettings
from services.monitor.bootstrap import open_service
from services.monitor.settings import MonitorSettings
from tests.support.service import TestServer, mesh_certificates, running

OTHERS = ("identity", "scheduler", "agent", "tool", "memory")


class Counting(scheduler_grpc.SchedulerServiceServicer):
    async def CountTasks(self, request: Any, context: Any) -> scheduler_pb.CountTasksResponse:
        return scheduler_pb.CountTasksResponse(counts={"pending": 2, "completed": 5})


class Mesh:
    """The monitor, and the other services as bare servers that can be stopped and started on their ports."""

    def __init__(self, tls: Path, settings: dict[str, Any]) -> None:
        self.tls = tls
        self.settings = settings
        self.ports: dict[str, int] = {}
        """each keeps the port that it got when it first started."""
        self.admin_ports: dict[str, int] = {}
        self.others: dict[str, RunningService] = {}
        self.object_store_away = False
        self.monitor: TestServer

    async def start(self, name: str) -> None:
        registrations = []
        if name == "scheduler":
            add = scheduler_grpc.add_SchedulerServiceServicer_to_server
            registrations.append(Registration(add, Counting(), "guildmesh.scheduler.v1.SchedulerService"))
        settings = ServiceSettings(tls_dir=self.tls / name, port=self.ports.get(name, 0), admin_port=0, drain_seconds=0)
        apart = {"guildmesh.scheduler.v1.PayloadService": self._object_store} if name == "scheduler" else {}
        service = RunningService(Service(name, registrations, apart=apart), settings)
        await service.start()
        self.others[name] = service
        self.ports[name] = service.port
        self.admin_ports[name] = service.admin_port

    async def _object_store(self) -> None:
        if self.object_store_away:
            raise DependencyUnavailable("object store")

    async def stop(self, name: str) -> None:
        await self.others.pop(name).stop()

    async def stop_all(self) -> None:
        await asyncio.gather(*(self.stop(name) for name in list(self.others)))


@pytest.fixture(scope="session")
def monitor_tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mesh_certificates(tmp_path_factory.mktemp("monitor-tls"))


@asynccontextmanager
async def open_mesh(tls: Path, **settings: Any) -> AsyncIterator[Mesh]:
    mesh = Mesh(tls, settings)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(mesh.stop_all)
        await asyncio.gather(*(mesh.start(name) for name in OTHERS))
        targets = {f"{name}_target": f"127.0.0.1:{port}" for name, port in mesh.ports.items()}
        admins = {f"{name}_admin": f"127.0.0.1:{port}" for name, port in mesh.admin_ports.items()}
        monitor_settings = MonitorSettings(
            tls_dir=tls / "monitor", port=0, admin_port=0, drain_seconds=0, **targets, **admins, **settings
        )
        mesh.monitor = await stack.enter_async_context(running(open_service, monitor_settings, tls))
        yield mesh


@pytest.fixture
async def mesh(monitor_tls: Path, postgres_url: str, redis_url: str, kafka_bootstrap_servers: str) -> AsyncIterator[Mesh]:
    settings = {
        "database_url": postgres_url,
        "redis_url": redis_url,
        "redis_cache_url": redis_url,
        "kafka_bootstrap_servers": kafka_bootstrap_servers,
    }
    async with open_mesh(monitor_tls, **settings) as running_mesh:
        yield running_mesh
