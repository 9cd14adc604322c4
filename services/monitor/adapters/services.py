"""Asks the other processes of the mesh: services by grpc.health.v1, processes without gRPC by their admin port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as scheduler_pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as scheduler_grpc

from services.common.errors import DependencyUnavailable
from services.common.grpcx.channel import open_channel
from services.monitor.domain.health import OBJECT_STORE, PAYLOAD_SERVICE
from services.monitor.domain.ports import Check
from services.monitor.settings import MonitorSettings

SERVICES = ("identity", "scheduler", "agent", "tool", "memory")
PROCESSES = ("relay", "webhooks", "worker")
"""Processes that serve no gRPC; they are watched when their admin port is known."""
_TIMEOUT = 1.0
_RECONNECT_TIMEOUT = 1.3


class GrpcTaskCounts:
    """The scheduler's CountTasks; implements the port TaskCounts."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = scheduler_grpc.SchedulerServiceStub(channel)

    async def count(self) -> Mapping[str, int]:
        """Tasks of the whole mesh by status."""
        response = await self._stub.CountTasks(scheduler_pb.CountTasksRequest(), timeout=_TIMEOUT)
        return dict(response.counts)


def grpc_check(service: str, channel: grpc.aio.Channel, target: str, part: str = "") -> Check:
    """Whether a service, or a `part` of it, says that it serves. What it stands on is asked apart: a cause is named once."""
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=part)

    async def check() -> None:
        try:
            try:
                answer = await stub.Check(request, timeout=_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                # A channel waits up to a second before it connects anew; a service that is back must not look down so long.
                if error.code() is not grpc.StatusCode.UNAVAILABLE or not await _listens(target):
                    raise
                answer = await stub.Check(request, timeout=_RECONNECT_TIMEOUT, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise DependencyUnavailable(service) from error
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise DependencyUnavailable(service)

    return check


async def _listens(target: str) -> bool:
    host, _, port = target.rpartition(":")
    try:
        async with asyncio.timeout(0.1):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError, ValueError):
        return False
    writer.close()
    return True


def admin_check(process: str, client: httpx.AsyncClient, addresses: list[str]) -> Check:
    """Whether each process of a kind answers at its admin port."""

    async def check() -> None:
        for address in addresses:
            try:
                response = await client.get(f"http://{address}/health", timeout=_TIMEOUT)
                response.raise_for_status()
            except httpx.HTTPError as error:
                raise DependencyUnavailable(process) from error

    return check


@asynccontextmanager
async def open_services(
    settings: MonitorSettings, client: httpx.AsyncClient
) -> AsyncIterator[tuple[dict[str, Check], dict[str, Check], GrpcTaskCounts]]:
    """The checks of all other services and processes, those of what the mesh works without, and the scheduler's counts."""
    async with AsyncExitStack() as stack:
        channels = {name: await stack.enter_async_context(open_channel(settings, name)) for name in SERVICES}
        checks = {name: grpc_check(name, channel, settings.target(name)) for name, channel in channels.items()}
        for process in PROCESSES:
            if addresses := settings.admins(process):
                checks[process] = admin_check(process, client, addresses)
        payloads = grpc_check(OBJECT_STORE, channels["scheduler"], settings.target("scheduler"), PAYLOAD_SERVICE)
        yield checks, {OBJECT_STORE: payloads}, GrpcTaskCounts(channels["scheduler"])
