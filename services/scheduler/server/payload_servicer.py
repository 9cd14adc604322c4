"""PayloadService: each method converts, calls its use case, converts back; bodies pass through piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.empty_pb2 import Empty
from guildmesh.scheduler.v1 import payload_pb2
from guildmesh.scheduler.v1 import payload_service_pb2 as pb
from guildmesh.scheduler.v1 import payload_service_pb2_grpc as pb_grpc

from services.common.context import current_call
from services.common.errors import InvalidRequest
from services.scheduler.server.payload_convert import payload_message
from services.scheduler.usecases.delete_payload import DeletePayload
from services.scheduler.usecases.read_payload import ReadPayload
from services.scheduler.usecases.upload_payload import UploadPayload

DEFAULT_TYPE = "application/octet-stream"
_LONGEST_TYPE = 255


@dataclass(frozen=True, slots=True)
class PayloadUseCases:
    """What the servicer calls."""

    upload_payload: UploadPayload
    read_payload: ReadPayload
    delete_payload: DeletePayload


class PayloadServicer(pb_grpc.PayloadServiceServicer):
    """Serves guildmesh.scheduler.v1.PayloadService."""

    def __init__(self, use_cases: PayloadUseCases) -> None:
        self._use_cases = use_cases

    async def UploadPayload(self, request_iterator: AsyncIterator[HttpBody], context: Any) -> payload_pb2.Payload:
        """Stores a body."""
        messages = aiter(request_iterator)
        first = await anext(messages, HttpBody())
        content_type = first.content_type or DEFAULT_TYPE
        if len(content_type) > _LONGEST_TYPE or not content_type.isprintable():
            raise InvalidRequest([("content_type", f"must be printable text of at most {_LONGEST_TYPE} characters")])

        async def pieces() -> AsyncIterator[bytes]:
            yield first.data
            async for message in messages:
                yield message.data

        return payload_message(await self._use_cases.upload_payload.execute(_tenant(), content_type, pieces()))

    async def GetPayload(self, request: pb.GetPayloadRequest, context: Any) -> payload_pb2.Payload:
        """Tells of a payload."""
        return payload_message(await self._use_cases.read_payload.get(_tenant(), request.payload_id.lower()))

    async def DownloadPayload(self, request: pb.DownloadPayloadRequest, context: Any) -> AsyncIterator[HttpBody]:
        """Streams a body; an empty one is one empty message, so that its type is known."""
        payload = await self._use_cases.read_payload.get(_tenant(), request.payload_id.lower())
        content_type, sent = payload.content_type, False
        async with aclosing(self._use_cases.read_payload.pieces(payload, request.offset)) as pieces:
            async for piece in pieces:
                yield HttpBody(content_type=content_type, data=piece)
                content_type, sent = "", True
        if not sent:
            yield HttpBody(content_type=content_type)

    async def DeletePayload(self, request: pb.DeletePayloadRequest, context: Any) -> Empty:
        """Deletes a payload."""
        await self._use_cases.delete_payload.execute(_tenant(), request.payload_id.lower())
        return Empty()


def _tenant() -> str:
    return current_call().principal.tenant_id
