"""A scheduler that dies in the middle of an upload, a deletion or a sweep: the next one takes away what is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psycopg2
import pytest
from google.api.httpbody_pb2 import HttpBody
from guildmesh.scheduler.v1 import payload_service_pb2 as pb
from guildmesh.scheduler.v1 import payload_service_pb2_grpc as pb_grpc

from services.common.context import Principal
from services.common.failpoints import CRASH_STATUS
from services.common.grpcx.channel import secure_channel
from services.embedded.ports import free_port
from tests.integration.scheduler.conftest import MakeSettings, unique
from tests.integration.scheduler.processes import Process
from tests.support.service import metadata
from tests.support.waiting import eventually

POINTS = (
    "scheduler.upload_payload.before_object",
    "scheduler.upload_payload.after_object",
    "scheduler.delete_payload.before_object",
    "scheduler.delete_payload.after_object",
)
SWEPT = ("scheduler.sweep_payloads.before_objects", "scheduler.sweep_payloads.after_objects")


async def body() -> AsyncIterator[HttpBody]:
    for _ in range(6):
        yield HttpBody(data=b"x" * (1 << 20))


async def short() -> AsyncIterator[HttpBody]:
    yield HttpBody(data=b"x")
    await asyncio.sleep(0.05)


@pytest.mark.timeout(180)
async def test_what_a_dead_scheduler_leaves_of_payloads_goes(
    scheduler_settings: MakeSettings, scheduler_tls: Path, tmp_path: Path
) -> None:
    settings, port, rules, objects = scheduler_settings(), free_port(), tmp_path / "rules", tmp_path / "objects"
    url = settings.database_url.get_secret_value()
    environment = {
        "DATABASE_URL": url,
        "DB_POOL_SIZE": "8",
        "OBJECT_STORE_URL": objects.as_uri(),
        "GUILDMESH_TLS_DIR": str(settings.tls_dir),
        "GUILDMESH_ADMIN_PORT": "0",
        "GUILDMESH_DRAIN_SECONDS": "1",
        "GUILDMESH_PORT": str(port),
        "GUILDMESH_PAYLOAD_SWEEP_SECONDS": "0.2",
        "GUILDMESH_PAYLOAD_UPLOAD_SECONDS": "1",
        "GUILDMESH_PAYLOAD_UNUSED_SECONDS": "0.5",
        "GUILDMESH_FAILPOINTS_FILE": str(rules),
    }
    ada = Principal("ada", unique("acme"), frozenset({"user"}))

    def left() -> tuple[int, int]:
        """Rows and files."""
        connection = psycopg2.connect(url)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET ROLE scheduler_engine")
                cursor.execute("SELECT count(*) FROM scheduler.payloads WHERE tenant_id = %s", (ada.tenant_id,))
                [(rows,)] = cursor.fetchall()
        finally:
            connection.close()
        return rows, sum(path.is_file() for path in objects.rglob("*"))

    rules.write_text("")
    process = Process("services.scheduler", environment, tmp_path / "scheduler.log")
    async with secure_channel(f"localhost:{port}", "scheduler", scheduler_tls / "gateway") as channel:
        payloads: Any = pb_grpc.PayloadServiceStub(channel)
        await process.start()
        try:
            for point in POINTS:
                rules.write_text(f"{point}=crash@1")
                with pytest.raises(grpc.aio.AioRpcError):
                    # The process looks at the file of rules every now and then: until it has, nothing breaks.
                    while True:
                        payload = await payloads.UploadPayload(body(), metadata=metadata(ada), wait_for_ready=True)
                        request = pb.DeletePayloadRequest(payload_id=payload.payload_id)
                        await payloads.DeletePayload(request, metadata=metadata(ada), wait_for_ready=True)
                assert await process.ended() == CRASH_STATUS, process.tail()
                assert left()[0] == 1
                rules.write_text("")
                await process.start()
                await asyncio.to_thread(eventually, lambda: left() == (0, 0), 20)
            for point in SWEPT:
                rules.write_text(f"{point}=crash@1")
                with pytest.raises(grpc.aio.AioRpcError):
                    # What nobody uses is swept, by a process that sooner or later has read its rules.
                    while True:
                        await payloads.UploadPayload(short(), metadata=metadata(ada), wait_for_ready=True, timeout=5)
                assert await process.ended() == CRASH_STATUS, process.tail()
                rows, files = left()
                assert rows, "it died after all that there was to do"
                assert files < rows or "before" in point
                rules.write_text("")
                await process.start()
                await asyncio.to_thread(eventually, lambda: left() == (0, 0), 20)
        finally:
            await process.stop()
