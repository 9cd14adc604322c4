"""Channels to the other services: mutual TLS, retries where they are safe, and the caller's identity and deadline handed on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from services.common.certificates import IDENTITY_SUFFIX
from services.common.context import current_call
from services.common.grpcx.policy import policies
from services.common.grpcx.principal import PRINCIPAL_KEY, REQUEST_ID_KEY, TRACEPARENT_KEY, encode_principal
from services.common.grpcx.server import MAX_MESSAGE_BYTES
from services.common.settings import ServiceSettings
from services.common.telemetry.tracing import current_traceparent

DEFAULT_TIMEOUT = 30.0
SERVICES = {
    "identity": ("guildmesh.identity.v1.IdentityService",),
    "scheduler": (
        "guildmesh.scheduler.v1.SchedulerService",
        "guildmesh.scheduler.v1.ScheduleService",
        "guildmesh.scheduler.v1.QueueService",
        "guildmesh.scheduler.v1.DeadLetterService",
        "guildmesh.scheduler.v1.PayloadService",
        "guildmesh.scheduler.v1.WebhookService",
        "guildmesh.scheduler.v1.EventKeyService",
        "guildmesh.scheduler.v1.WorkerService",
        "guildmesh.scheduler.v1.DispatchService",
        "guildmesh.scheduler.v1.EventLogService",
    ),
    "agent": ("guildmesh.agent.v1.AgentService",),
    "tool": ("guildmesh.tool.v1.ToolService",),
    "memory": ("guildmesh.memory.v1.MemoryService",),
    "monitor": ("guildmesh.monitor.v1.MonitorService",),
}


def service_config(service: str) -> str:
    """The gRPC service config: round robin, and retries of UNAVAILABLE only for methods that the contract calls idempotent."""
    _load_contracts(service)
    names = [
        {"service": policy.method[1:].split("/")[0], "method": policy.method.rsplit("/", 1)[1]}
        for full_name in SERVICES[service]
        for policy in policies(full_name)
        if policy.idempotent
    ]
    retry = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    methods = [{"name": names, "retryPolicy": retry}] if names else []
    return json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": methods})


@asynccontextmanager
async def open_channel(settings: ServiceSettings, service: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to another service, such as "scheduler"; it connects when it is first used, and again whenever it must."""
    async with secure_channel(settings.target(service), service, settings.tls_dir, tracing=settings.enable_tracing) as channel:
        yield channel


def secure_channel(target: str, service: str, tls_dir: Path, *, tracing: bool = False) -> grpc.aio.Channel:
    """A mutual-TLS channel to `target`, which must show the certificate of `service`."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=(tls_dir / "ca.crt").read_bytes(),
        private_key=(tls_dir / "tls.key").read_bytes(),
        certificate_chain=(tls_dir / "tls.crt").read_bytes(),
    )
    interceptors: list[grpc.aio.ClientInterceptor] = []
    if tracing:
        from opentelemetry.instrumentation.grpc import aio_client_interceptors

        interceptors.extend(aio_client_interceptors())  # type: ignore[no-untyped-call]
    interceptors.extend((_UnaryUnary(), _UnaryStream(), _StreamUnary(), _StreamStream()))
    return grpc.aio.secure_channel(
        target,
        credentials,
        options=[
            ("grpc.ssl_target_name_override", service + IDENTITY_SUFFIX),
            ("grpc.service_config", service_config(service)),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", 15_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # A restarted service is found again at once, not after the default back-off of up to two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            # In spite of its name this is how long one attempt to connect may take, the TLS handshake included: on a machine that
            # is busy that is seconds, and with less no service would reach another there.
            ("grpc.min_reconnect_backoff_ms", 5_000),
            ("grpc.max_reconnect_backoff_ms", 1_000),
        ],
        interceptors=interceptors,
    )


def _details(details: grpc.aio.ClientCallDetails, *, unary: bool) -> grpc.aio.ClientCallDetails:
    call = current_call()
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    metadata.add(REQUEST_ID_KEY, call.request_id)
    traceparent = current_traceparent() or call.traceparent
    if traceparent and metadata.get(TRACEPARENT_KEY) is None:
        metadata.add(TRACEPARENT_KEY, traceparent)
    if call.principal.kind != "anonymous":
        metadata.add(PRINCIPAL_KEY, encode_principal(call.principal))
    timeout = details.timeout if details.timeout is not None else (DEFAULT_TIMEOUT if unary else None)
    if call.deadline is not None:
        remaining = max(call.deadline - asyncio.get_running_loop().time(), 0.001)
        timeout = remaining if timeout is None else min(timeout, remaining)
    return grpc.aio.ClientCallDetails(details.method, timeout, metadata, details.credentials, details.wait_for_ready)


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        return await continuation(_details(client_call_details, unary=True), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        return await continuation(_details(client_call_details, unary=False), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(_details(client_call_details, unary=False), request_iterator)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(_details(client_call_details, unary=False), request_iterator)


def _load_contracts(service: str) -> None:
    """Imports the generated modules, so that the descriptor pool knows the service's methods."""
    import importlib

    for full_name in SERVICES[service]:
        package, name = full_name.rsplit(".", 1)
        importlib.import_module(f"{package}.{_snake(name)}_pb2")


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
