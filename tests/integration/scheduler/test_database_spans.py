"""A sampled call's trace has its statements: a scheduler process that sends its spans to a receiver of OTLP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.common.grpcx.channel import secure_channel
from services.common.telemetry.database_spans import summary_of
from services.embedded.ports import free_port
from tests.integration.scheduler.conftest import MakeSettings, unique
from tests.integration.scheduler.processes import Process
from tests.support.service import ADA, metadata

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what is sent to it."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.aio.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.spans += [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def attributes(span: Span) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


async def spans_of(
    settings_of: MakeSettings, tls: Path, folder: Path, calls: Sequence[tuple[str, pb.CreateTaskRequest]]
) -> list[Span]:
    """What a scheduler sends of calls to CreateTask, each with its trace context."""
    settings = settings_of(port=free_port())
    receiver = Receiver()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    environment = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "GUILDMESH_TLS_DIR": str(settings.tls_dir),
        "GUILDMESH_PORT": str(settings.port),
        "GUILDMESH_ADMIN_PORT": "0",
        "GUILDMESH_DRAIN_SECONDS": "0",
        "ENABLE_TRACING": "true",
        "OTLP_ENDPOINT": f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}",
    }
    await server.start()
    process = Process("services.scheduler", environment, folder / "scheduler.log")
    await process.start()
    try:
        async with secure_channel(f"localhost:{settings.port}", "scheduler", tls / "gateway") as channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60)
            stub: pb_grpc.SchedulerServiceAsyncStub = pb_grpc.SchedulerServiceStub(channel)
            for traceparent, request in calls:
                await stub.CreateTask(request, metadata=(*metadata(ADA), ("traceparent", traceparent)))
    finally:
        # It sends what it has when it stops.
        assert await process.stop() == 0, process.tail()
        await server.stop(1)
    return receiver.spans


async def test_the_statements_of_a_sampled_call_are_spans_below_it_and_tell_no_values(
    scheduler_settings: MakeSettings, scheduler_tls: Path, tmp_path: Path
) -> None:
    secret, unsampled = unique("secret"), "5" * 32
    task = task_pb2.Task(description=secret, kind=unique("kind"), labels={"who": secret})
    calls = [
        (f"00-{TRACE}-{CALLER}-01", pb.CreateTaskRequest(task=task, request_id=secret)),
        (f"00-{unsampled}-{CALLER}-00", pb.CreateTaskRequest(task=task)),
    ]
    spans = await spans_of(scheduler_settings, scheduler_tls, tmp_path, calls)
    assert [span for span in spans if span.trace_id.hex() == unsampled] == []
    mine = [span for span in spans if span.trace_id.hex() == TRACE]
    (served,) = (span for span in mine if span.kind == Span.SPAN_KIND_SERVER)
    assert served.parent_span_id.hex() == CALLER
    statements = [span for span in mine if span.kind == Span.SPAN_KIND_CLIENT]
    names = [span.name for span in statements]
    assert names[0] == "BEGIN"
    assert names[-1] == "COMMIT"
    assert {"INSERT task_requests", "SELECT queues INSERT tasks INSERT outbox INSERT task_count_changes"} <= set(names)
    for span in statements:
        said = attributes(span)
        assert span.parent_span_id == served.span_id
        assert (said["db.system.name"], said["db.query.summary"]) == ("postgresql", span.name)
        assert str(said["db.namespace"]).endswith("|scheduler")
        assert said["server.port"]
        assert said["db.query.text"]
        assert served.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= served.end_time_unix_nano
        assert secret.encode() not in span.SerializeToString()
        assert ADA.tenant_id.encode() not in span.SerializeToString()


def test_a_summary_names_what_is_done_to_which_tables() -> None:
    assert summary_of("SELECT a FROM tasks r JOIN x USING (y) WHERE z = $1 FOR NO KEY UPDATE") == "SELECT tasks"
    assert (
        summary_of("WITH gone AS (DELETE FROM tasks RETURNING *) INSERT INTO kept SELECT * FROM gone")
        == "DELETE tasks INSERT kept"
    )
    assert summary_of("INSERT INTO t (a) SELECT a FROM unnest($1::int[]) AS u (a) ON CONFLICT DO UPDATE SET a = 1") == "INSERT t"
    assert summary_of("BEGIN; SET LOCAL ROLE r") == "BEGIN"
    assert summary_of("SELECT clock_timestamp()") == "SELECT"
