"""grpc.health.v1 for the whole mesh: service "" is all of it, the others are the public services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.monitor.domain.health import OBJECT_STORE, PAYLOAD_SERVICE, HealthReport
from services.monitor.domain.ports import Health
from services.monitor.server.access import ProbeAccess
from services.monitor.server.public import public_services

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
OWN = "monitor"
_APART = {PAYLOAD_SERVICE: OBJECT_STORE}
"""services with a check of their own."""
WATCH_SECONDS = 1.0
"""How often a watched status is looked at."""


class MeshHealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Check, List and Watch as the gRPC health checking protocol says them."""

    def __init__(self, health: Health, access: ProbeAccess) -> None:
        self._health = health
        self._access = access

    async def Check(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """The status of one service; NOT_FOUND for a name that is none."""
        self._access.check()
        status = _status(request.service, await self._health.report())
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"No service {request.service!r}; the method List names them all.")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """The status of every service."""
        self._access.check()
        report = await self._health.report()
        answers = {name: health_pb2.HealthCheckResponse(status=_status(name, report)) for name in ("", *public_services())}
        return health_pb2.HealthListResponse(statuses=answers)

    async def Watch(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        """The status of one service now and at every change; SERVICE_UNKNOWN for a name that is none."""
        self._access.check()
        told: int | None = None
        while True:
            status = _status(request.service, await self._health.report())
            status = SERVICE_UNKNOWN if status is None else status
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            await asyncio.sleep(WATCH_SECONDS)


def _status(name: str, report: HealthReport) -> int | None:
    if name == "":
        return int(SERVING if report.healthy else NOT_SERVING)
    service = public_services().get(name)
    if service is None:
        return None
    healthy = service == OWN or report.checks[_APART.get(name, service)].healthy
    return int(SERVING if healthy else NOT_SERVING)
