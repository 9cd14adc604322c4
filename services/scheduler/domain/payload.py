"""Payloads: bodies in the object store that are too large for a task's row, and how a task names one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum


class PayloadState(IntEnum):
    """Where a payload is in its life; the numbers are those of the database."""

    UPLOADING = 1
    """its row is there; its object may be."""
    READY = 2
    DELETING = 3
    """nobody uses it, and nobody may any more; its object may be gone."""


class PayloadUse(IntEnum):
    """What a payload is to a task; the numbers are those of the database."""

    CONTEXT = 1
    RESULT = 2


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload whose upload has ended."""

    payload_id: str
    tenant_id: str
    content_type: str
    size: int
    """bytes of the body."""
    sha256: bytes
    create_time: datetime
    expire_time: datetime
    """when it goes unless a task uses it."""

    @property
    def reference(self) -> PayloadReference:
        """How events and tasks name it."""
        return PayloadReference(self.payload_id, self.size, self.sha256.hex())


@dataclass(frozen=True, slots=True)
class PayloadReference:
    """A payload, named: what events and the result of a task carry instead of its body."""

    payload_id: str
    size: int
    sha256: str
    """in hexadecimal."""


PREFIX = "payloads"
"""below which all bodies lie in the object store."""


def object_key(tenant_id: str, payload_id: str) -> str:
    """Where the body lies in the object store: each tenant's below a prefix of its own."""
    return f"{PREFIX}/{tenant_id.encode().hex()}/{payload_id}"


def key_parts(key: str) -> tuple[str, str] | None:
    """The tenant and the payload of a key that `object_key` gave; None for another."""
    parts = key.split("/")
    try:
        return (bytes.fromhex(parts[1]).decode(), parts[2]) if len(parts) == 3 and parts[0] == PREFIX else None
    except ValueError:
        return None


# A result that is a payload lies where other results lie, behind a tag that no google.protobuf.Value begins with (field 100, of
# any length); what follows is a guildmesh.events.v1.PayloadReference, or, as a worker names it, the id alone.
_TAG = b"\xa2\x06"


def named_result(payload_id: str) -> bytes:
    """The result that a worker tells by the id of a payload."""
    return _TAG + payload_id.encode()


def named_payload(result: bytes) -> str:
    """The id in what `named_result` gave."""
    return result[len(_TAG) :].decode()


def referenced_result(reference: bytes) -> bytes:
    """The result that is kept: a PayloadReference, serialized."""
    return _TAG + reference


def is_payload(result: bytes) -> bool:
    """Whether a result is a payload."""
    return result[:2] == _TAG


def reference_in(result: bytes) -> bytes:
    """The PayloadReference in a result that is a payload, serialized."""
    return result[len(_TAG) :]
