"""Stage "context": request id, trace context and deadline of the call."""

from __future__ import annotations

import asyncio
import re

from services.common.context import CallContext, enter_call
from services.common.grpcx.call import ServerCall
from services.common.grpcx.chain import PassingStage
from services.common.grpcx.principal import REQUEST_ID_KEY, TRACEPARENT_KEY
from services.common.ids import new_id
from services.common.telemetry.tracing import current_traceparent, is_traceparent, new_traceparent

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ContextStage(PassingStage):
    """Makes the call's context current."""

    name = "context"
    after: tuple[str, ...] = ()

    def __init__(self, *, tracing: bool = False) -> None:
        """`tracing` says whether calls have spans, whose trace context then counts."""
        self._tracing = tracing

    def enter(self, call: ServerCall) -> None:
        """Takes what the caller sent where it is well formed, and makes it anew where it is not."""
        request_id = call.metadata.get(REQUEST_ID_KEY, "")
        traceparent = (self._tracing and current_traceparent()) or call.metadata.get(TRACEPARENT_KEY, "")
        remaining = call.context.time_remaining()
        enter_call(
            CallContext(
                request_id=request_id if _REQUEST_ID.fullmatch(request_id) else new_id(),
                peer=call.peer,
                traceparent=traceparent if is_traceparent(traceparent) else new_traceparent(),
                deadline=None if remaining is None else asyncio.get_running_loop().time() + remaining,
            )
        )
