"""Stage "metrics": the plan's request counters and durations."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.grpcx.call import ServerCall
from services.common.grpcx.chain import PassingStage
from services.common.grpcx.status import HTTP_STATUS
from services.common.telemetry import metrics


class MetricsStage(PassingStage):
    """Counts each call by its final code; it surrounds the errors stage to see it."""

    name = "metrics"
    after: tuple[str, ...] = ("context",)

    @contextmanager
    def around(self, call: ServerCall) -> Iterator[None]:
        """Counts and times the call."""
        code = "CANCELLED"
        try:
            yield
            code = call.code
        except Exception:
            code = call.code
            raise
        finally:
            policy = call.policy
            metrics.requests_total.labels(policy.http_method, policy.endpoint, str(HTTP_STATUS.get(code, 500))).inc()
            metrics.request_duration_seconds.labels(policy.http_method, policy.endpoint).observe(
                time.perf_counter() - call.started
            )
