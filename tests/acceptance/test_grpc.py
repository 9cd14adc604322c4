"""The gRPC surface as a stranger finds it: by reflection, on the one public port."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_pb2

from tests.support.mesh import RunningMesh

pytestmark = pytest.mark.acceptance
PUBLIC = {
    "guildmesh.agent.v1.AgentService",
    "guildmesh.identity.v1.IdentityService",
    "guildmesh.memory.v1.MemoryService",
    "guildmesh.monitor.v1.MonitorService",
    "guildmesh.scheduler.v1.DeadLetterService",
    "guildmesh.scheduler.v1.EventKeyService",
    "guildmesh.scheduler.v1.PayloadService",
    "guildmesh.scheduler.v1.QueueService",
    "guildmesh.scheduler.v1.ScheduleService",
    "guildmesh.scheduler.v1.SchedulerService",
    "guildmesh.scheduler.v1.WebhookService",
    "guildmesh.scheduler.v1.WorkerService",
    "guildmesh.tool.v1.ToolService",
}
PROBES = {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}


@pytest.fixture
def channel(mesh: RunningMesh) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(mesh.grpc_target) as channel:
        yield channel


@pytest.fixture(scope="module")
def bearer(mesh: RunningMesh) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {mesh.token()}"),)


def reflect(channel: grpc.Channel, version: str = "v1", **question: str) -> Any:
    """One question to reflection; both versions are the same on the wire."""
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return next(call(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=20))


def reflected(channel: grpc.Channel) -> list[MethodDescriptor]:
    """Every method of every listed service, from what reflection says alone."""
    pool = descriptor_pool.DescriptorPool()
    known: set[str] = set()
    names = [each.name for each in reflect(channel, list_services="*").list_services_response.service]
    for name in names:
        answer = reflect(channel, file_containing_symbol=name)
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto
        ]
        pending = {file.name: file for file in files if file.name not in known}
        while pending:
            ready = [file for file in pending.values() if not set(file.dependency) & set(pending)]
            assert ready, f"reflection leaves out what {sorted(pending)} import"
            for file in ready:
                pool.Add(pending.pop(file.name))
                known.add(file.name)
    return [method for name in names for method in pool.FindServiceByName(name).methods]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_every_public_service(channel: grpc.Channel, version: str) -> None:
    listed = {each.name for each in reflect(channel, version, list_services="*").list_services_response.service}
    assert listed == PUBLIC | PROBES


def test_no_method_that_reflection_shows_is_unimplemented(channel: grpc.Channel, bearer: tuple[tuple[str, str], ...]) -> None:
    methods = reflected(channel)
    assert len(methods) > 40
    codes = {method.full_name: _call(channel, method, bearer) for method in methods}
    assert grpc.StatusCode.UNIMPLEMENTED not in codes.values(), codes
    # An empty request is a caller's error or answered, never a fault of ours.
    names = ("INTERNAL", "UNKNOWN", "UNAUTHENTICATED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
    faults = {grpc.StatusCode[name] for name in names}
    assert {name: code for name, code in codes.items() if code in faults} == {}


def _call(channel: grpc.Channel, method: MethodDescriptor, metadata: tuple[tuple[str, str], ...]) -> grpc.StatusCode:
    """The code of a call with an empty request; OK for a stream that answered."""
    request = message_factory.GetMessageClass(method.input_type)()
    path = f"/{method.containing_service.full_name}/{method.name}"
    body = request.SerializeToString()
    try:
        if method.client_streaming:
            call: Any = channel.stream_stream(path)(iter([body]), metadata=metadata, timeout=20)
        elif method.server_streaming:
            call = channel.unary_stream(path)(body, metadata=metadata, timeout=20)
        else:
            channel.unary_unary(path)(body, metadata=metadata, timeout=20)
            return grpc.StatusCode.OK
        # A watch may go on for ever: its first answer is enough.
        next(call, None)
        call.cancel()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_health_answers_for_each_service(mesh: RunningMesh, channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", *PUBLIC):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, f"{service!r}: {mesh.ok('logs', 'monitor')[-4000:]}"
    assert set(health.List(health_pb2.HealthListRequest(), timeout=20).statuses) == {"", *PUBLIC}
    with pytest.raises(grpc.RpcError) as unknown:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=20)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_task_is_created_and_watched_through_the_same_port(channel: grpc.Channel, bearer: tuple[tuple[str, str], ...]) -> None:
    scheduler = pb_grpc.SchedulerServiceStub(channel)
    request = pb.CreateTaskRequest(task=task_pb2.Task(description="Say yes."))
    task = scheduler.CreateTask(request, metadata=bearer, timeout=20)
    events = list(scheduler.WatchTask(pb.WatchTaskRequest(task_id=task.task_id), metadata=bearer, timeout=60))
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert events[0].type == "guildmesh.task.created.v1"
    assert events[-1].type == "guildmesh.task.completed.v1"
    resumed = scheduler.WatchTask(pb.WatchTaskRequest(task_id=task.task_id, after_event_number=1), metadata=bearer, timeout=60)
    assert [event.number for event in resumed] == [event.number for event in events[1:]]
