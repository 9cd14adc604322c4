"""Traces (requirement row 8): OpenTelemetry over OTLP/gRPC, and the W3C trace context even where no span is sent."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from services.common.settings import ServiceSettings

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def is_traceparent(value: str) -> bool:
    """Whether `value` is a W3C trace context of version 00."""
    return _TRACEPARENT.fullmatch(value) is not None


def new_traceparent(*, sampled: bool = False) -> str:
    """The trace context of a new trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{'01' if sampled else '00'}"


def current_traceparent() -> str:
    """The trace context of the current span, or empty."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


@contextmanager
def tracing(settings: ServiceSettings, service: str) -> Iterator[None]:
    """Sends spans for as long as the block runs, when tracing is enabled."""
    if not settings.enable_tracing:
        yield
        return
    provider = TracerProvider(
        resource=Resource.create({"service.name": f"guildmesh-{service}", "service.namespace": "guildmesh"}),
        sampler=ParentBased(TraceIdRatioBased(settings.sample_rate)),
    )
    endpoint = settings.otlp_endpoint
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    from opentelemetry.instrumentation.aiokafka import AIOKafkaInstrumentor
    from opentelemetry.instrumentation.redis import RedisInstrumentor

    RedisInstrumentor().instrument()
    AIOKafkaInstrumentor().instrument()
    try:
        yield
    finally:
        provider.shutdown()
