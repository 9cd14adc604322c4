"""Where the parts of monitor are chosen and put together."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from guildmesh.monitor.v1.monitor_service_pb2_grpc import add_MonitorServiceServicer_to_server

from services.common.grpcx.server import HEALTH_SERVICE, Registration
from services.common.service import Service
from services.monitor.adapters.dependencies import open_dependency_checks
from services.monitor.adapters.documents import FileDocuments
from services.monitor.adapters.event_lag import RelayLag
from services.monitor.adapters.metrics import MeshMetrics
from services.monitor.adapters.services import open_services
from services.monitor.server.access import ProbeAccess
from services.monitor.server.health import MeshHealthServicer
from services.monitor.server.reflection import reflection_registrations
from services.monitor.server.servicer import MonitorServicer, UseCases
from services.monitor.settings import ADMIN_PROCESSES, MonitorSettings
from services.monitor.usecases.get_docs import GetDocs
from services.monitor.usecases.get_readiness import GetReadiness
from services.monitor.usecases.get_status import GetStatus
from services.monitor.usecases.observe_mesh import ObserveMesh

MONITOR_SERVICE = "guildmesh.monitor.v1.MonitorService"


@asynccontextmanager
async def open_service(settings: MonitorSettings) -> AsyncIterator[Service]:
    """The monitor service. It is ready when it runs: that something else is down is what it is there to tell."""
    async with (
        httpx.AsyncClient() as client,
        open_dependency_checks(settings) as dependencies,
        open_services(settings, client) as (services, optional, counts),
    ):
        health = ObserveMesh(dependencies, services, optional)
        documents = FileDocuments()
        access = ProbeAccess(settings.profile)
        use_cases = UseCases(
            health=health,
            get_readiness=GetReadiness(health),
            get_status=GetStatus(health, counts),
            get_docs=GetDocs(documents),
            documents=documents,
            lag=RelayLag(client, settings.admins("relay")),
            version=_version(),
        )
        metrics = MeshMetrics(client, {process: settings.admins(process) for process in ADMIN_PROCESSES})
        yield Service(
            name="monitor",
            registrations=[
                Registration(add_MonitorServiceServicer_to_server, MonitorServicer(use_cases), MONITOR_SERVICE),
                Registration(add_HealthServicer_to_server, MeshHealthServicer(health, access), HEALTH_SERVICE),
                *reflection_registrations(access),
            ],
            admin_routes={"/metrics": metrics} if settings.enable_metrics else {},
            own_health=False,
        )


def _version() -> str:
    try:
        return importlib.metadata.version("guildmesh")
    except importlib.metadata.PackageNotFoundError:
        return "0+checkout"
