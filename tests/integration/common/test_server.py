"""The server that every service uses: certificates, policy, errors, over real mutual TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_pb2

from services.common.context import Principal, current_call
from services.common.errors import DependencyUnavailable, NotFound
from services.common.grpcx.chain import ChainOrderError, check_order
from services.common.grpcx.channel import secure_channel
from services.common.grpcx.server import Registration, default_stages
from services.common.service import Service
from services.common.settings import ServiceSettings
from tests.support.service import ADA, TestServer, mesh_certificates, metadata, running
from tests.support.tcp_proxy import tcp_proxy

SCHEDULER = "guildmesh.scheduler.v1.SchedulerService"


class Unknown(NotFound):
    reason = "TASK_NOT_FOUND"
    domain = "scheduler.guildmesh.dev"


class Servicer(pb_grpc.SchedulerServiceServicer):
    """Answers by what the request names."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> task_pb2.Task:
        self.seen.append(current_call())
        if request.task_id == "missing":
            raise Unknown("No task 'missing'.", task_id="missing")
        if request.task_id == "bug":
            raise RuntimeError("the password is hunter2")
        if request.task_id == "down":
            raise DependencyUnavailable("database")
        return task_pb2.Task(task_id=request.task_id, tenant_id=current_call().principal.tenant_id)

    async def CreateTask(self, request: pb.CreateTaskRequest, context: Any) -> task_pb2.Task:
        return request.task

    async def WatchTask(self, request: pb.WatchTaskRequest, context: Any) -> AsyncIterator[Any]:
        from guildmesh.events.v1 import task_event_pb2

        yield task_event_pb2.TaskEvent(task_id=request.task_id, number=1)
        raise Unknown("gone", task_id="x")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[TestServer]:
    tls = mesh_certificates(tmp_path)

    @asynccontextmanager
    async def open_service(settings: ServiceSettings) -> AsyncIterator[Service]:
        registration = Registration(pb_grpc.add_SchedulerServiceServicer_to_server, Servicer(), SCHEDULER)
        yield Service("scheduler", [registration])

    settings = ServiceSettings(port=0, admin_port=0, tls_dir=tls / "scheduler", drain_seconds=0)
    async with running(open_service, settings, tls) as test_server:
        yield test_server


def details(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    return status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])  # type: ignore[arg-type]


def reason(error: grpc.aio.AioRpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    assert details(error).details[0].Unpack(info)
    return info.reason


Call = Callable[..., Any]


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_verified_user_reaches_the_handler_with_its_tenant(server: TestServer) -> None:
    stub = pb_grpc.SchedulerServiceStub(server.channel())
    task = await stub.GetTask(pb.GetTaskRequest(task_id="a"), metadata=metadata(ADA))
    assert task.tenant_id == "acme"


async def test_no_token_is_unauthenticated(server: TestServer) -> None:
    error = await failure(pb_grpc.SchedulerServiceStub(server.channel()).GetTask(pb.GetTaskRequest(task_id="a")))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


async def test_a_certificate_that_is_not_listed_is_denied(server: TestServer) -> None:
    stub = pb_grpc.SchedulerServiceStub(server.channel("memory"))
    error = await failure(stub.GetTask(pb.GetTaskRequest(task_id="a"), metadata=metadata(ADA, via="memory")))
    assert (error.code(), reason(error)) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")


async def test_only_the_gateway_may_bring_claims_and_it_may_not_bring_a_principal(server: TestServer) -> None:
    as_agent = pb_grpc.SchedulerServiceStub(server.channel("agent"))
    task = await as_agent.GetTask(pb.GetTaskRequest(task_id="a"), metadata=metadata(ADA))
    assert task.tenant_id == ""
    as_gateway = pb_grpc.SchedulerServiceStub(server.channel("gateway"))
    error = await failure(as_gateway.GetTask(pb.GetTaskRequest(task_id="a"), metadata=metadata(ADA, via="agent")))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_without_a_certificate_the_handshake_fails(server: TestServer) -> None:
    authority = (server.tls / "gateway" / "ca.crt").read_bytes()
    options = [("grpc.ssl_target_name_override", "scheduler.guildmesh.internal")]
    async with grpc.aio.secure_channel(server.target, grpc.ssl_channel_credentials(authority), options) as channel:
        error = await failure(pb_grpc.SchedulerServiceStub(channel).GetTask(pb.GetTaskRequest(task_id="a"), timeout=5))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_server_that_is_slow_to_shake_hands_is_reached_all_the_same(server: TestServer) -> None:
    # As on a machine that is busy: the connection is there at once, what the server says to it is not.
    async with (
        tcp_proxy([server.running.port], delay=0.5) as port,
        secure_channel(f"127.0.0.1:{port}", "scheduler", server.tls / "gateway") as channel,
    ):
        # A method that is not retried: the first attempt to connect must do.
        stub = pb_grpc.SchedulerServiceStub(channel)
        request = pb.CreateTaskRequest(task=task_pb2.Task(kind="k", description="d"))
        assert (await stub.CreateTask(request, metadata=metadata(ADA))).kind == "k"


async def test_a_domain_error_is_told_with_reason_and_metadata(server: TestServer) -> None:
    stub = pb_grpc.SchedulerServiceStub(server.channel())
    error = await failure(stub.GetTask(pb.GetTaskRequest(task_id="missing"), metadata=metadata(ADA)))
    info = error_details_pb2.ErrorInfo()
    details(error).details[0].Unpack(info)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "TASK_NOT_FOUND",
        "scheduler.guildmesh.dev",
        {"task_id": "missing"},
    )


async def test_an_error_within_a_stream_is_told_after_what_was_sent(server: TestServer) -> None:
    stub = pb_grpc.SchedulerServiceStub(server.channel())
    call = stub.WatchTask(pb.WatchTaskRequest(task_id="a"), metadata=metadata(ADA))
    assert (await call.read()).number == 1
    error = await failure(call.read())
    assert reason(error) == "TASK_NOT_FOUND"


async def test_a_fault_of_ours_tells_nothing_but_the_request_id(server: TestServer) -> None:
    stub = pb_grpc.SchedulerServiceStub(server.channel())
    error = await failure(stub.GetTask(pb.GetTaskRequest(task_id="bug"), metadata=metadata(ADA)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(error.details())
    assert reason(error) == "INTERNAL"


async def test_a_dependency_that_is_down_says_when_to_retry(server: TestServer) -> None:
    stub = pb_grpc.SchedulerServiceStub(server.channel())
    error = await failure(stub.CreateTask(pb.CreateTaskRequest(), metadata=metadata(ADA)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    down = await failure(stub.GetTask(pb.GetTaskRequest(task_id="down"), metadata=metadata(ADA), timeout=5))
    assert (down.code(), reason(down)) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")


async def test_bytes_that_are_no_message_are_an_invalid_argument(server: TestServer) -> None:
    method = server.channel().unary_unary(f"/{SCHEDULER}/CreateTask")
    deep = struct_pb2.Value(string_value="x")
    encoded = deep.SerializeToString()
    for _ in range(300):
        encoded = b"\x0a" + _varint(len(encoded)) + encoded
        encoded = b"\x32" + _varint(len(encoded)) + encoded
    for tag in (b"\x12", b"\x0a", b"\x32", b"\x0a"):  # map value, Struct.fields, Task.context, CreateTaskRequest.task
        encoded = tag + _varint(len(encoded)) + encoded
    for data in (b"\xff\xff\xff", encoded):
        error = await failure(method(data, metadata=metadata(ADA)))
        assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


async def test_health_is_serving_for_each_service(server: TestServer) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel("monitor"))
    for name in ("", SCHEDULER):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_an_unknown_method_is_unimplemented(server: TestServer) -> None:
    error = await failure(server.channel().unary_unary(f"/{SCHEDULER}/Nothing")(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_stages_in_the_wrong_order_are_refused() -> None:
    check_order(default_stages())
    with pytest.raises(ChainOrderError, match="auth"):
        check_order(list(reversed(default_stages())))


def test_a_service_principal_is_not_a_user() -> None:
    assert Principal("service:agent", "", kind="service").kind == "service"


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])
