"""What another service refused, as a domain error with the other's own code, reason and words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.rpc import error_details_pb2, status_pb2

from services.common.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    DependencyUnavailable,
    DomainError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from services.common.grpcx.status import DETAILS_KEY

_KINDS: dict[str, type[DomainError]] = {
    kind.code: kind
    for kind in (
        Aborted,
        AlreadyExists,
        DeadlineExceeded,
        FailedPrecondition,
        InvalidArgument,
        NotFound,
        PermissionDenied,
        Unauthenticated,
        Unavailable,
    )
}


@contextmanager
def refusals(service: str) -> Iterator[None]:
    """Turns a failed call to `service` in the block into a DomainError.

    Raises:
        DomainError: what the service answered; DependencyUnavailable when it does not answer.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise refusal(service, error) from error


def refusal(service: str, error: grpc.aio.AioRpcError) -> DomainError:
    """The domain error of a failed call."""
    info, retry_after = _details(error)
    code = error.code().name
    if info is None:
        if code == "UNAVAILABLE":
            return DependencyUnavailable(f"{service} service")
        if code == "DEADLINE_EXCEEDED":
            return DeadlineExceeded(f"The {service} service gave no answer in time; retry with a longer deadline.")
        return Internal(f"The {service} service answered {code}.")
    refused = _KINDS.get(code, Internal)(error.details() or code, **dict(info.metadata))
    refused.reason = info.reason
    refused.domain = info.domain
    refused.retry_after = retry_after
    return refused


def _details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo | None, float | None]:
    found: error_details_pb2.ErrorInfo | None = None
    retry_after: float | None = None
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            for detail in status_pb2.Status.FromString(value).details:
                info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
                if detail.Unpack(info):
                    found = info
                elif detail.Unpack(retry):
                    retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return found, retry_after
