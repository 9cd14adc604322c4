"""Stage "access_log": one line a call, with its code, duration and caller."""

from __future__ import annotations

import logging
import time

from services.common.context import current_call
from services.common.grpcx.call import ServerCall
from services.common.grpcx.chain import PassingStage
from services.common.grpcx.policy import OPEN_SERVICES
from services.common.telemetry.lines import LineLogger

_log = LineLogger("access")


class AccessLogStage(PassingStage):
    """Logs each call when it has ended; probes only at debug."""

    name = "access_log"
    after: tuple[str, ...] = ("context",)

    def leave(self, call: ServerCall, error: BaseException | None) -> None:
        """Logs the call."""
        cancelled = error is not None and not isinstance(error, Exception)
        current = current_call()
        policy = call.policy
        quiet = policy.service in OPEN_SERVICES or policy.endpoint in ("/health", "/ready")
        _log.log(
            logging.DEBUG if quiet else logging.INFO,
            "call",
            {
                "method": policy.method,
                "code": "CANCELLED" if cancelled else call.code,
                "duration_ms": round((time.perf_counter() - call.started) * 1000, 3),
                "peer": current.peer,
                "tenant": current.principal.tenant_id,
                "subject": current.principal.subject,
            },
        )
