"""Runs every check at once, and shares the outcome among those who ask within half a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import structlog

from services.common.errors import DomainError
from services.monitor.domain.health import CheckResult, HealthReport
from services.monitor.domain.ports import Check

log = structlog.get_logger(__name__)

CHECK_TIMEOUT = 1.5
"""Seconds until a check that does not answer has failed."""
TRIES = 2
"""How often in a row a check must fail before what it asks counts as down: the first may only have found that a restart had cut
a connection since the last round, or that a busy machine was late."""
CACHE_SECONDS = 0.5
"""Probes of many load balancers cost one round of checks; a change is seen within a second all the same."""


class ObserveMesh:
    """Answers how the mesh is; implements the port Health."""

    def __init__(
        self, dependencies: Mapping[str, Check], services: Mapping[str, Check], optional: Mapping[str, Check] | None = None
    ) -> None:
        """The mesh can work while only `optional` checks fail."""
        self._checks = {**dependencies, **services, **(optional or {})}
        self._services = frozenset(services)
        self._optional = frozenset(optional or {})
        self._lock = asyncio.Lock()
        self._report: HealthReport | None = None
        self._made = 0.0

    async def report(self) -> HealthReport:
        """The outcome of every check, at most half a second old."""
        async with self._lock:
            if self._report is None or time.monotonic() - self._made > CACHE_SECONDS:
                results = await asyncio.gather(*(_run(check) for check in self._checks.values()))
                report = HealthReport(dict(zip(self._checks, results, strict=True)), self._services, self._optional)
                _log_changes(self._report, report)
                self._report, self._made = report, time.monotonic()
            return self._report


def _log_changes(before: HealthReport | None, after: HealthReport) -> None:
    for name, result in after.checks.items():
        was = before is None or before.checks[name].healthy
        if was and not result.healthy:
            log.warning("part is down", part=name, cause=result.message, seconds=round(result.duration, 3))
        elif result.healthy and not was:
            log.info("part is back", part=name)


async def _run(check: Check) -> CheckResult:
    begun = time.monotonic()
    message = ""
    for _ in range(TRIES):
        message = await _failure(check)
        if not message:
            break
    return CheckResult(healthy=not message, message=message, duration=time.monotonic() - begun)


async def _failure(check: Check) -> str:
    """Why the check failed; empty when it did not."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            await check()
    except TimeoutError:
        return f"did not answer within {CHECK_TIMEOUT:g} s"
    except DomainError as error:
        return error.message
    except Exception as error:
        # Whatever a driver raises, what it asked is not there for us.
        return f"{type(error).__name__}: {error}"
    return ""
