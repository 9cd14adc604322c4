"""Stage "access_log": one line a call, with its code, duration and caller."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from services.common.context import current_call
from services.common.grpcx.call import ServerCall
from services.common.grpcx.chain import PassingStage
from services.common.grpcx.policy import OPEN_SERVICES

_log = structlog.get_logger("access")


class AccessLogStage(PassingStage):
    """Logs each call when it has ended; probes only at debug."""

    name = "access_log"
    after: tuple[str, ...] = ("context",)

    @contextmanager
    def around(self, call: ServerCall) -> Iterator[None]:
        """Logs the call."""
        cancelled = False
        try:
            yield
        except BaseException as error:
            cancelled = not isinstance(error, Exception)
            raise
        finally:
            current = current_call()
            quiet = call.policy.method[1:].split("/")[0] in OPEN_SERVICES or call.policy.endpoint in (
                "/health",
                "/ready",
            )
            (_log.debug if quiet else _log.info)(
                "call",
                method=call.policy.method,
                code="CANCELLED" if cancelled else call.code,
                duration_ms=round((time.perf_counter() - call.started) * 1000, 3),
                peer=current.peer,
                tenant=current.principal.tenant_id,
                subject=current.principal.subject,
            )
