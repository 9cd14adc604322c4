"""What a check found, and what all of them say together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one check."""

    healthy: bool
    message: str
    """what is wrong; empty when healthy."""
    duration: float
    """seconds that the check took."""


@dataclass(frozen=True, slots=True)
class EventLag:
    """How far publishing of events is behind."""

    waiting_events: int
    oldest_seconds: float
    """age of the oldest that waits; 0 when none does."""
    late: bool
    """whether that is more than it may be."""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The outcome of every check at one time."""

    checks: Mapping[str, CheckResult]
    """by name, such as "database" or "scheduler"."""
    services: frozenset[str]
    """which of the checks are services of the mesh; the others are what it stands on."""

    @property
    def down(self) -> tuple[str, ...]:
        """Names of what is down, dependencies first: they are the likely cause."""
        names = [name for name, result in self.checks.items() if not result.healthy]
        return tuple(sorted(names, key=lambda name: (name in self.services, name)))

    @property
    def healthy(self) -> bool:
        """Whether nothing is down."""
        return not self.down
