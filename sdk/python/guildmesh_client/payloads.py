"""Payloads: bodies that are too large for a task's row, up and down in pieces."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from google.api.httpbody_pb2 import HttpBody
from guildmesh.scheduler.v1 import payload_service_pb2 as pb
from guildmesh.scheduler.v1 import payload_service_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    # The worker library uses this module.
    from guildmesh_client.worker.json_values import JsonValue

PIECE_BYTES = 1 << 20
JSON_TYPE = "application/json"


async def upload_json(channel: grpc.aio.Channel, value: JsonValue, metadata: Sequence[tuple[str, str]] = ()) -> str:
    """Uploads a value as compact JSON, and gives the id of the payload.

    Raises:
        ValueError: it is not JSON.
        grpc.aio.AioRpcError: the scheduler did not take it, such as for its size.
    """
    try:
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"it is not a JSON value: {error}") from error

    async def pieces() -> AsyncIterator[HttpBody]:
        for start in range(0, len(body), PIECE_BYTES):
            yield HttpBody(content_type=JSON_TYPE if start == 0 else "", data=body[start : start + PIECE_BYTES])

    stub: pb_grpc.PayloadServiceAsyncStub = pb_grpc.PayloadServiceStub(channel)
    payload = await stub.UploadPayload(pieces(), metadata=tuple(metadata))
    return payload.payload_id


async def download_json(channel: grpc.aio.Channel, payload_id: str, metadata: Sequence[tuple[str, str]] = ()) -> Any:
    """The JSON value that is a payload.

    Raises:
        ValueError: it is not JSON.
        grpc.aio.AioRpcError: the scheduler did not give it.
    """
    stub: pb_grpc.PayloadServiceAsyncStub = pb_grpc.PayloadServiceStub(channel)
    call = stub.DownloadPayload(pb.DownloadPayloadRequest(payload_id=payload_id), metadata=tuple(metadata))
    return json.loads(b"".join([piece.data async for piece in call]))
