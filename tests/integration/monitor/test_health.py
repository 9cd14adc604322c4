"""Health of the mesh over real servers that are stopped and started."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from guildmesh.monitor.v1 import monitor_service_pb2 as pb
from guildmesh.monitor.v1 import monitor_service_pb2_grpc as pb_grpc

from services.common.grpcx.status import error_info
from services.embedded.parts.kafka import Kafka
from services.embedded.parts.postgres import Postgres
from services.embedded.parts.redis import Redis
from services.embedded.running import RunningPart
from tests.integration.monitor.conftest import Mesh, open_mesh
from tests.support.servers import running_kafka, running_postgres, running_redis
from tests.support.service import ADA, metadata

PAYLOADS = "guildmesh.scheduler.v1.PayloadService"


def stub(mesh: Mesh) -> pb_grpc.MonitorServiceStub:
    return pb_grpc.MonitorServiceStub(mesh.monitor.channel())


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        # Another process changes, and tells nobody here.
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def down(monitor: pb_grpc.MonitorServiceStub) -> str:
    """What /ready names; empty when ready."""
    call = monitor.GetReadiness(pb.GetReadinessRequest())
    if await call.code() is grpc.StatusCode.OK:
        return ""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    reason, details = error_info(refused.value)
    assert (refused.value.code(), reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
    return details["down"]


async def test_a_whole_mesh_is_healthy_ready_and_told_in_detail(mesh: Mesh) -> None:
    monitor = stub(mesh)
    assert (await monitor.GetHealth(pb.GetHealthRequest())).status == "healthy"
    assert (await monitor.GetReadiness(pb.GetReadinessRequest())).status == "ready"
    detailed = await monitor.GetDetailedHealth(pb.GetDetailedHealthRequest())
    assert detailed.status == "healthy"
    assert {name: check.status for name, check in detailed.checks.items()} == dict.fromkeys(
        ["database", "redis", "redis_cache", "kafka", "identity", "scheduler", "agent", "tool", "memory", "object_store"],
        "healthy",
    )
    assert detailed.timestamp.seconds > 0


async def test_an_object_store_that_is_away_is_told_and_the_mesh_goes_on(mesh: Mesh) -> None:
    monitor = stub(mesh)
    health = health_pb2_grpc.HealthStub(mesh.monitor.channel())

    async def serves(name: str = "") -> bool:
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name), metadata=metadata(ADA))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def told() -> bool:
        detailed = await monitor.GetDetailedHealth(pb.GetDetailedHealthRequest())
        return detailed.checks["object_store"].status == "unhealthy"

    mesh.object_store_away = True
    await until(told)
    detailed = await monitor.GetDetailedHealth(pb.GetDetailedHealthRequest())
    assert (detailed.status, detailed.checks["scheduler"].status) == ("unhealthy", "healthy")
    assert "object_store" in detailed.checks["object_store"].message
    assert await down(monitor) == ""
    assert (await monitor.GetStatus(pb.GetStatusRequest(), metadata=metadata(ADA))).status == "degraded"
    assert (await serves(PAYLOADS), await serves()) == (False, True)
    mesh.object_store_away = False

    async def back() -> bool:
        return not await told() and await serves(PAYLOADS)

    await until(back)


async def test_status_tells_services_and_task_counts(mesh: Mesh) -> None:
    status = await stub(mesh).GetStatus(pb.GetStatusRequest(), metadata=metadata(ADA))
    assert status.status == "healthy"
    assert dict(status.tasks) == {"pending": 2, "completed": 5}
    assert dict(status.services) == dict.fromkeys(["agent", "identity", "memory", "scheduler", "tool"], "healthy")
    assert status.version


async def test_status_needs_a_token(mesh: Mesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub(mesh).GetStatus(pb.GetStatusRequest())
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_service_that_is_away_is_named_and_back_without_a_restart_of_anything_else(mesh: Mesh) -> None:
    monitor = stub(mesh)
    assert await down(monitor) == ""
    await mesh.stop("scheduler")

    async def gone() -> bool:
        return await down(monitor) == "scheduler"

    async def back() -> bool:
        return await down(monitor) == ""

    await until(gone)
    status = await monitor.GetStatus(pb.GetStatusRequest(), metadata=metadata(ADA))
    assert (status.status, status.services["scheduler"], dict(status.tasks)) == ("degraded", "unhealthy", {})
    await mesh.start("scheduler")
    await until(back)


@pytest.mark.parametrize(("server", "names"), [("postgres", "database"), ("redis", "redis,redis_cache"), ("kafka", "kafka")])
async def test_a_dependency_that_is_away_is_named_and_seen_again(
    server: str, names: str, monitor_tls: Path, postgres_url: str, redis_url: str, kafka_bootstrap_servers: str
) -> None:
    settings = {
        "database_url": postgres_url,
        "redis_url": redis_url,
        "redis_cache_url": redis_url,
        "kafka_bootstrap_servers": kafka_bootstrap_servers,
    }
    start = {"postgres": running_postgres, "redis": running_redis, "kafka": running_kafka}[server]
    with start() as own:
        settings |= _address(own)
        async with open_mesh(monitor_tls, **settings) as mesh:
            monitor = stub(mesh)

            async def gone() -> bool:
                return await down(monitor) == names

            async def back() -> bool:
                return await down(monitor) == ""

            await until(back)
            await asyncio.to_thread(own.stop)
            await until(gone)
            await asyncio.to_thread(own.start)
            await until(back)


@pytest.mark.parametrize("server", ["postgres", "redis", "kafka"])
async def test_the_first_look_after_a_restart_that_no_one_saw_finds_all_well(
    server: str, monitor_tls: Path, postgres_url: str, redis_url: str, kafka_bootstrap_servers: str
) -> None:
    """Every connection of monitor to the server is dead by then, and that alone must not be told as an outage."""
    settings = {
        "database_url": postgres_url,
        "redis_url": redis_url,
        "redis_cache_url": redis_url,
        "kafka_bootstrap_servers": kafka_bootstrap_servers,
    }
    start = {"postgres": running_postgres, "redis": running_redis, "kafka": running_kafka}[server]
    with start() as own:
        async with open_mesh(monitor_tls, **settings | _address(own)) as mesh:
            monitor = stub(mesh)

            async def ready() -> bool:
                return await down(monitor) == ""

            await until(ready)
            await asyncio.to_thread(own.stop)
            await asyncio.to_thread(own.start)
            assert await down(monitor) == ""


def _address(running: RunningPart) -> dict[str, str]:
    part = running.part
    if isinstance(part, Postgres):
        return {"database_url": part.url}
    if isinstance(part, Redis):
        return {"redis_url": part.url, "redis_cache_url": part.url}
    assert isinstance(part, Kafka)
    return {"kafka_bootstrap_servers": part.bootstrap_servers}
