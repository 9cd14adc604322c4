"""Stage "metrics": the plan's request counters and durations."""

from __future__ import annotations

import time
from functools import cache

from prometheus_client import Counter, Histogram

from services.common.grpcx.call import ServerCall
from services.common.grpcx.chain import PassingStage
from services.common.grpcx.status import HTTP_STATUS
from services.common.telemetry import metrics


class MetricsStage(PassingStage):
    """Counts each call by its final code; it surrounds the errors stage to see it."""

    name = "metrics"
    after: tuple[str, ...] = ("context",)

    def leave(self, call: ServerCall, error: BaseException | None) -> None:
        """Counts and times the call."""
        code = call.code if error is None or isinstance(error, Exception) else "CANCELLED"
        policy = call.policy
        _counter(policy.http_method, policy.endpoint, code).inc()
        _histogram(policy.http_method, policy.endpoint).observe(time.perf_counter() - call.started)


# labels() looks its child up under a lock, among texts; methods and codes are few.
@cache
def _counter(http_method: str, endpoint: str, code: str) -> Counter:
    return metrics.requests_total.labels(http_method, endpoint, str(HTTP_STATUS.get(code, 500)))


@cache
def _histogram(http_method: str, endpoint: str) -> Histogram:
    return metrics.request_duration_seconds.labels(http_method, endpoint)
