"""MonitorService on the wire."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc
from google.api import httpbody_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.monitor.v1 import monitor_service_pb2 as pb
from guildmesh.monitor.v1 import monitor_service_pb2_grpc as pb_grpc

from services.monitor.domain.ports import Document, Documents, EventLags, Health
from services.monitor.usecases.get_docs import GetDocs
from services.monitor.usecases.get_readiness import GetReadiness
from services.monitor.usecases.get_status import GetStatus

Context = grpc.aio.ServicerContext[Any, Any]

# The page runs only our own files, and talks only to us.
_PAGE_HEADERS = (
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
)


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the servicer calls."""

    health: Health
    get_readiness: GetReadiness
    get_status: GetStatus
    get_docs: GetDocs
    documents: Documents
    lag: EventLags
    version: str
    """of the mesh."""


class MonitorServicer(pb_grpc.MonitorServiceServicer):
    """Turns messages into calls of use cases and back; the contract documents each method."""

    def __init__(self, use_cases: UseCases) -> None:
        self._use_cases = use_cases

    async def GetHealth(self, request: pb.GetHealthRequest, context: Context) -> pb.GetHealthResponse:
        """The mesh answers, so it is alive."""
        return pb.GetHealthResponse(status="healthy")

    async def GetReadiness(self, request: pb.GetReadinessRequest, context: Context) -> pb.GetReadinessResponse:
        """Whether the mesh can work."""
        await self._use_cases.get_readiness()
        return pb.GetReadinessResponse(status="ready")

    async def GetDetailedHealth(self, request: pb.GetDetailedHealthRequest, context: Context) -> pb.GetDetailedHealthResponse:
        """Every check."""
        report, lag = await asyncio.gather(self._use_cases.health.report(), self._use_cases.lag.read())
        checks = {
            name: pb.HealthCheck(
                status=_word(result.healthy), message=result.message, duration_ms=round(result.duration * 1000, 3)
            )
            for name, result in report.checks.items()
        }
        response = pb.GetDetailedHealthResponse(status=_word(report.complete), checks=checks, timestamp=_now())
        if lag is not None:
            events = pb.EventLag(waiting_events=lag.waiting_events, oldest_seconds=round(lag.oldest_seconds, 3), late=lag.late)
            response.event_lag.CopyFrom(events)
        return response

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        """Services and tasks."""
        status = await self._use_cases.get_status()
        services = {name: _word(status.report.checks[name].healthy) for name in sorted(status.report.services)}
        return pb.GetStatusResponse(
            status="healthy" if status.report.complete and status.counted else "degraded",
            version=self._use_cases.version,
            services=services,
            tasks=status.tasks,
            timestamp=_now(),
        )

    async def GetOpenApi(self, request: pb.GetOpenApiRequest, context: Context) -> httpbody_pb2.HttpBody:
        """The OpenAPI document."""
        return _body(self._use_cases.documents.open_api())

    async def GetAsyncApi(self, request: pb.GetAsyncApiRequest, context: Context) -> httpbody_pb2.HttpBody:
        """The AsyncAPI document."""
        return _body(self._use_cases.documents.async_api())

    async def GetDocs(self, request: pb.GetDocsRequest, context: Context) -> httpbody_pb2.HttpBody:
        """The page or one of its files."""
        document = self._use_cases.get_docs(request.file)
        await context.send_initial_metadata(_PAGE_HEADERS)
        return _body(document)


def _body(document: Document) -> httpbody_pb2.HttpBody:
    return httpbody_pb2.HttpBody(content_type=document.content_type, data=document.data)


def _word(healthy: bool) -> str:
    return "healthy" if healthy else "unhealthy"


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now
