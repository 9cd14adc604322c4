"""The gRPC server of a service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.common.grpcx.chain import ChainInterceptor, Stage
from services.common.grpcx.interceptors.access_log import AccessLogStage
from services.common.grpcx.interceptors.auth import AuthStage
from services.common.grpcx.interceptors.context import ContextStage
from services.common.grpcx.interceptors.errors import ErrorsStage
from services.common.grpcx.interceptors.metrics import MetricsStage
from services.common.grpcx.interceptors.validation import ValidationStage
from services.common.grpcx.policy import policies

# A context of 1 MiB of JSON can be larger as protobuf, and requests may carry several values.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
HEALTH_SERVICE = "grpc.health.v1.Health"


@dataclass(frozen=True, slots=True)
class Registration:
    """A servicer and how it is added to a server."""

    add: Callable[[Any, grpc.aio.Server], None]
    servicer: Any
    service: str
    """full name, such as "guildmesh.scheduler.v1.SchedulerService"."""


def default_stages(*, tracing: bool = False) -> list[Stage]:
    """The chain of every service, outermost first. Metrics and logs surround errors, so that they see the final code."""
    return [ContextStage(tracing=tracing), AccessLogStage(), MetricsStage(), ErrorsStage(), AuthStage(), ValidationStage()]


def build_server(
    registrations: Sequence[Registration], *, tracing: bool = False, own_health: bool = True
) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """A server with the chain in place, and its health servicer.

    Args:
        registrations: what it serves.
        tracing: whether calls make OpenTelemetry spans.
        own_health: whether it answers grpc.health.v1 for itself; the monitor answers for the mesh instead.

    Raises:
        PolicyMissing: a method has no access rule.
    """
    health_servicer = health.aio.HealthServicer()
    served = list(registrations)
    if own_health:
        served.append(Registration(health_pb2_grpc.add_HealthServicer_to_server, health_servicer, HEALTH_SERVICE))
    rules = {policy.method: policy for item in served for policy in policies(item.service)}
    interceptors: list[grpc.aio.ServerInterceptor] = [ChainInterceptor(default_stages(tracing=tracing), rules)]
    if tracing:
        from opentelemetry.instrumentation.grpc import aio_server_interceptor

        interceptors.insert(0, aio_server_interceptor())  # type: ignore[no-untyped-call]
    server = grpc.aio.server(
        interceptors=interceptors,
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_metadata_size", 32 * 1024),
            ("grpc.absolute_max_metadata_size", 64 * 1024),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.max_concurrent_streams", 10_000),
            ("grpc.so_reuseport", 1),
        ],
    )
    for item in served:
        item.add(item.servicer, server)
    return server, health_servicer


async def set_serving(servicer: health.aio.HealthServicer, registrations: Sequence[Registration]) -> None:
    """Tells grpc.health.v1 that the server and each of its services answer."""
    for name in ("", *(item.service for item in registrations)):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)


def server_credentials(tls_dir: Path) -> grpc.ServerCredentials:
    """Mutual TLS: only certificates of the mesh's authority are let in."""
    return grpc.ssl_server_credentials(
        [((tls_dir / "tls.key").read_bytes(), (tls_dir / "tls.crt").read_bytes())],
        root_certificates=(tls_dir / "ca.crt").read_bytes(),
        require_client_auth=True,
    )
