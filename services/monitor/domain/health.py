"""What a check found, and what all of them say together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

OBJECT_STORE = "object_store"
"""name of the check of where payloads are kept, as the scheduler sees it."""
PAYLOAD_SERVICE = "guildmesh.scheduler.v1.PayloadService"
"""the service that needs it."""


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
    optional: frozenset[str] = frozenset()
    """which of the checks the mesh works without, but for those who need just that."""

    @property
    def down(self) -> tuple[str, ...]:
        """Names of what the mesh cannot work without and is down, dependencies first: they are the likely cause."""
        names = [name for name, result in self.checks.items() if not result.healthy and name not in self.optional]
        return tuple(sorted(names, key=lambda name: (name in self.services, name)))

    @property
    def healthy(self) -> bool:
        """Whether the mesh can work."""
        return not self.down

    @property
    def complete(self) -> bool:
        """Whether nothing at all is down."""
        return all(result.healthy for result in self.checks.values())
