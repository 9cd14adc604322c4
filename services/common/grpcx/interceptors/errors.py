"""Stage "errors": the only way out for what a handler raises."""

from __future__ import annotations

import math
from typing import NoReturn

import grpc
import structlog

from services.common.context import current_call
from services.common.errors import DeadlineExceeded, DependencyUnavailable, DomainError, Internal
from services.common.grpcx.call import ServerCall
from services.common.grpcx.chain import PassingStage, Refused
from services.common.grpcx.status import DETAILS_KEY, status_code, to_status

_log = structlog.get_logger(__name__)


class ErrorsStage(PassingStage):
    """Answers domain errors as google.rpc.Status; anything else is INTERNAL, told only to the log."""

    name = "errors"
    after: tuple[str, ...] = ("access_log", "metrics")

    def leave(self, call: ServerCall, error: BaseException | None) -> None:
        """Turns what was raised into a status."""
        # A cancellation is no Exception; who aborted the call has said what it wants to say.
        if not isinstance(error, Exception) or isinstance(error, grpc.aio.AbortError):
            return
        if isinstance(error, DomainError):
            _refuse(call, error)
        if isinstance(error, TimeoutError):
            _refuse(call, DeadlineExceeded("The deadline passed before the answer was ready; retry with a longer one."))
        if isinstance(error, grpc.aio.AioRpcError):
            _refuse_as(call, error)
        if call.context.code():
            # A handler that set a code itself, as third-party servicers do, has said what it wants to say.
            return
        _log.error("handler failed", method=call.policy.method, exc_info=error)
        request_id = current_call().request_id
        _refuse(
            call,
            Internal(f"An internal error happened; report it with the request id {request_id}.", request_id=request_id),
        )


def _refuse(call: ServerCall, error: DomainError) -> NoReturn:
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, to_status(error).SerializeToString())]
    if error.retry_after is not None:
        # The gateway's transcoder makes it the HTTP header, which has whole seconds only (RFC 9110, 10.2.3).
        trailers.append(("retry-after", str(math.ceil(error.retry_after))))
    _end(call, status_code(error), error.message, tuple(trailers))


def _refuse_as(call: ServerCall, error: grpc.aio.AioRpcError) -> NoReturn:
    """A call to another service failed: its status is ours, unless it is a fault between us that the caller did not cause."""
    details = {key: value for key, value in error.trailing_metadata() or () if key == DETAILS_KEY}
    code = error.code()
    if details and code is not grpc.StatusCode.INTERNAL:
        _end(call, code, error.details() or "", tuple(details.items()))
    _log.warning("call to a service failed", method=call.policy.method, code=code.name, details=error.details())
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        _refuse(call, DeadlineExceeded("The deadline passed before the answer was ready; retry with a longer one."))
    if code is grpc.StatusCode.UNAVAILABLE:
        _refuse(call, DependencyUnavailable("service behind this method"))
    request_id = current_call().request_id
    _refuse(
        call,
        Internal(f"An internal error happened; report it with the request id {request_id}.", request_id=request_id),
    )


def _end(call: ServerCall, code: grpc.StatusCode, message: str, trailers: tuple[tuple[str, str | bytes], ...]) -> NoReturn:
    # Here already, so that the stages around this one see the final code.
    call.context.set_code(code)
    raise Refused(code, message, trailers)
