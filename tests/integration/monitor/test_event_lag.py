"""How far events are behind is in /health/detailed, as long as one relay can tell."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc
from guildmesh.monitor.v1 import monitor_service_pb2 as pb
from guildmesh.monitor.v1 import monitor_service_pb2_grpc as pb_grpc

from services.common.admin import AdminServer
from services.embedded.ports import free_port
from tests.integration.monitor.conftest import open_mesh


async def test_a_relay_that_answers_tells_how_late_events_are(
    monitor_tls: Path, postgres_url: str, redis_url: str, kafka_bootstrap_servers: str
) -> None:
    told: dict[str, object] = {"events": 1200, "oldest_seconds": 45.25, "late": True}

    async def lag() -> tuple[str, bytes]:
        return "application/json", json.dumps(told).encode()

    relay = AdminServer({}, {"/lag": lag})
    port = await relay.start("127.0.0.1", 0)
    settings = {
        "database_url": postgres_url,
        "redis_url": redis_url,
        "kafka_bootstrap_servers": kafka_bootstrap_servers,
        "relay_admin": f"127.0.0.1:{free_port()},127.0.0.1:{port}",
    }
    async with open_mesh(monitor_tls, **settings) as mesh:
        stub: pb_grpc.MonitorServiceAsyncStub = pb_grpc.MonitorServiceStub(mesh.monitor.channel())
        detailed = await stub.GetDetailedHealth(pb.GetDetailedHealthRequest())
        lagging = detailed.event_lag
        assert (lagging.waiting_events, lagging.oldest_seconds, lagging.late) == (1200, 45.25, True)
        # Events that are late keep no task from its end, so the mesh is not less ready for it: the relay that is away is named.
        assert {name for name, check in detailed.checks.items() if check.status == "unhealthy"} == {"relay"}
        told.pop("late")
        assert not (await stub.GetDetailedHealth(pb.GetDetailedHealthRequest())).HasField("event_lag")
        await relay.stop()
        await asyncio.sleep(0)
        assert not (await stub.GetDetailedHealth(pb.GetDetailedHealthRequest())).HasField("event_lag")
        call = stub.GetReadiness(pb.GetReadinessRequest())
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
