"""Errors about payloads."""

from __future__ import annotations

from services.common.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from services.scheduler.domain.errors import DOMAIN


class PayloadNotFound(NotFound):
    """No such payload in the caller's tenant."""

    reason = "PAYLOAD_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, payload_id: str) -> None:
        super().__init__(
            f"No payload {payload_id!r}; upload it with POST /v1/payloads. One that no task uses is kept until its expire_time.",
            payload_id=payload_id,
        )


class PayloadInUse(FailedPrecondition):
    """A payload that tasks or schedules use cannot be deleted."""

    reason = "PAYLOAD_IN_USE"
    domain = DOMAIN

    def __init__(self, payload_id: str) -> None:
        super().__init__(
            f"Tasks or schedules use the payload {payload_id!r}; it is deleted with the last of them.", payload_id=payload_id
        )


class PayloadLost(NotFound):
    """The body of a payload is not in the object store any more."""

    reason = "PAYLOAD_LOST"
    domain = DOMAIN

    def __init__(self, payload_id: str) -> None:
        super().__init__(
            f"The body of the payload {payload_id!r} is not in the object store any more, though nothing of the mesh has deleted"
            " it. Upload it anew and create the task again, or have the operator restore it: `guildmesh doctor --data` lists all"
            " that are missing.",
            payload_id=payload_id,
        )


class UploadTooSlow(DeadlineExceeded):
    """An upload took longer than it may."""

    reason = "UPLOAD_TOO_SLOW"
    domain = DOMAIN

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The upload was given up after {seconds:g} s, which is the longest that one may take; upload it faster, in parts, or"
            " have GUILDMESH_PAYLOAD_UPLOAD_SECONDS raised.",
            seconds=f"{seconds:g}",
        )


class PayloadTooLarge(InvalidArgument):
    """An upload is larger than a payload may be."""

    reason = "PAYLOAD_TOO_LARGE"
    domain = DOMAIN

    def __init__(self, most: int) -> None:
        super().__init__(
            f"The payload has more than {most} bytes, which is the most; upload it in parts, or have"
            " GUILDMESH_PAYLOAD_MAX_BYTES raised.",
            most=str(most),
        )
