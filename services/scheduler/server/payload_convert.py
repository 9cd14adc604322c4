"""Between the messages about payloads and the domain."""

from __future__ import annotations

from datetime import UTC

from guildmesh.events.v1.task_event_pb2 import PayloadReference
from guildmesh.scheduler.v1 import payload_pb2 as pb

from services.scheduler.domain.payload import Payload, reference_in


def payload_message(payload: Payload) -> pb.Payload:
    """The payload as its tenant sees it."""
    message = pb.Payload(
        payload_id=payload.payload_id,
        tenant_id=payload.tenant_id,
        content_type=payload.content_type,
        size_bytes=payload.size,
        sha256=payload.sha256.hex(),
    )
    message.create_time.FromDatetime(payload.create_time.astimezone(UTC))
    message.expire_time.FromDatetime(payload.expire_time.astimezone(UTC))
    return message


def payload_id_in(result: bytes) -> str:
    """The id of the payload that is a result."""
    return PayloadReference.FromString(reference_in(result)).payload_id
