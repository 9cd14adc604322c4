"""Payloads that are uploaded, deleted and left to be swept, and what is left of them when all is quiet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.api.httpbody_pb2 import HttpBody
from guildmesh.scheduler.v1 import payload_service_pb2 as pb
from guildmesh.scheduler.v1 import payload_service_pb2_grpc as pb_grpc

from services.common.context import Principal
from services.common.grpcx.channel import secure_channel
from tests.faults.cluster import Cluster
from tests.support.due import Query
from tests.support.service import metadata

PLACES = ("scheduler.upload_payload.", "scheduler.delete_payload.", "scheduler.sweep_payloads.")
_UPLOADS = 4
_ROWS = "SELECT count(*) FROM scheduler.payloads WHERE tenant_id = %s"


async def provoke(cluster: Cluster, tenant: str) -> None:
    """Uploads some bodies and deletes half of them; whoever is not answered leaves what it has begun."""
    by = metadata(Principal("bodies", tenant, frozenset({"user"})))
    async with secure_channel(cluster.target, "scheduler", cluster.tls / "gateway") as channel:
        stub: Any = pb_grpc.PayloadServiceStub(channel)
        for number in range(_UPLOADS):
            try:
                payload = await stub.UploadPayload(_body(), metadata=by, timeout=10)
                if number % 2:
                    await stub.DeletePayload(pb.DeletePayloadRequest(payload_id=payload.payload_id), metadata=by, timeout=10)
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED):
                    cluster.surprises.append(f"a payload: {error.details()}")


def left(cluster: Cluster, query: Query, tenant: str) -> list[str]:
    """What is left of the tenant's payloads, none of which any task uses."""
    [(rows,)] = query(_ROWS, tenant)
    files = sum(path.is_file() and tenant in str(path) for path in cluster.objects.rglob("*"))
    return [f"{rows} rows and {files} objects of payloads are left"] if rows or files else []


async def _body() -> AsyncIterator[HttpBody]:
    for _ in range(3):
        yield HttpBody(data=b"x" * (1 << 20))
