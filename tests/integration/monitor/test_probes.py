"""gRPC health and reflection for every public service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import Default
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from services.common.context import Principal
from services.common.grpcx.channel import SERVICES
from tests.integration.monitor.conftest import Mesh, open_mesh
from tests.support.service import ADA, metadata

# What services say to the scheduler, and schedulers to each other, is nobody else's.
INTERNAL = {"guildmesh.scheduler.v1.DispatchService", "guildmesh.scheduler.v1.EventLogService"}
PUBLIC = {name for names in SERVICES.values() for name in names} - INTERNAL
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health(mesh: Mesh) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(mesh.monitor.channel())


async def reflect(mesh: Mesh, version: str, **question: Any) -> Any:
    """One question to reflection, in the messages of that version."""
    package = f"grpc.reflection.{version}"
    pool = Default()
    request = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.ServerReflectionRequest"))
    response = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.ServerReflectionResponse"))
    call = mesh.monitor.channel().stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )

    async def questions() -> AsyncIterator[Any]:
        yield request(**question)

    answers = [answer async for answer in call(questions())]
    return answers[0]


async def test_health_answers_for_every_public_service_and_the_whole(mesh: Mesh) -> None:
    for service in ("", *PUBLIC):
        assert (await health(mesh).Check(health_pb2.HealthCheckRequest(service=service))).status == SERVING
    listed = await health(mesh).List(health_pb2.HealthListRequest())
    assert {name: item.status for name, item in listed.statuses.items()} == dict.fromkeys(["", *PUBLIC], SERVING)


async def test_health_of_an_unknown_service_is_not_found_and_a_watch_says_so(mesh: Mesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await health(mesh).Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    assert "List" in str(unknown.value.details())
    watch = health(mesh).Watch(health_pb2.HealthCheckRequest(service="nobody"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


async def test_a_watch_tells_that_a_service_went_and_came_back(mesh: Mesh) -> None:
    watch = health(mesh).Watch(health_pb2.HealthCheckRequest(service="guildmesh.tool.v1.ToolService"))
    assert (await watch.read()).status == SERVING
    await mesh.stop("tool")
    assert (await watch.read()).status == NOT_SERVING
    whole = await health(mesh).Check(health_pb2.HealthCheckRequest())
    assert whole.status == NOT_SERVING
    await mesh.start("tool")
    assert (await watch.read()).status == SERVING
    watch.cancel()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_public_services_and_describes_them(mesh: Mesh, version: str) -> None:
    answer = await reflect(mesh, version, list_services="*")
    names = {service.name for service in answer.list_services_response.service}
    assert names == PUBLIC | {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    for name in names:
        described = await reflect(mesh, version, file_containing_symbol=name)
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(data)
            for data in described.file_descriptor_response.file_descriptor_proto
        ]
        assert any(f"{file.package}.{service.name}" == name for file in files for service in file.service)


async def test_reflection_does_not_show_what_only_the_mesh_may_call(mesh: Mesh) -> None:
    answer = await reflect(mesh, "v1", file_containing_symbol="guildmesh.scheduler.v1.SchedulerService")
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto
    ]
    methods = {method.name for file in files for service in file.service for method in service.method}
    assert "CreateTask" in methods
    assert "CountTasks" not in methods


async def test_reflection_finds_a_method(mesh: Mesh) -> None:
    answer = await reflect(mesh, "v1", file_containing_symbol="guildmesh.scheduler.v1.SchedulerService.CreateTask")
    assert answer.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize("symbol", ["guildmesh.Nothing", "guildmesh.scheduler.v1.SchedulerService.Nothing", "", "."])
async def test_reflection_says_not_found_for_an_unknown_symbol(mesh: Mesh, symbol: str) -> None:
    answer = await reflect(mesh, "v1", file_containing_symbol=symbol)
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_in_production_probes_from_outside_need_an_administrator(
    monitor_tls: Path, postgres_url: str, redis_url: str, kafka_bootstrap_servers: str
) -> None:
    settings = {
        "profile": "production",
        "database_url": postgres_url,
        "redis_url": redis_url,
        "kafka_bootstrap_servers": kafka_bootstrap_servers,
    }
    async with open_mesh(monitor_tls, **settings) as mesh:
        request = health_pb2.HealthCheckRequest()
        for caller, code in ((None, grpc.StatusCode.UNAUTHENTICATED), (ADA, grpc.StatusCode.PERMISSION_DENIED)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await health(mesh).Check(request, metadata=metadata(caller) if caller else None)
            assert refused.value.code() is code
        admin = Principal("grace", "acme", frozenset({"admin"}))
        answered = await health(mesh).Check(request, metadata=metadata(admin))
        assert answered.status == SERVING
        # A service of the mesh, such as an operator's probe with its own certificate, may always ask.
        probe = health_pb2_grpc.HealthStub(mesh.monitor.channel("operator"))
        assert (await probe.Check(request)).status == SERVING
        stream = mesh.monitor.channel().stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        call = stream()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services="*"))
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
