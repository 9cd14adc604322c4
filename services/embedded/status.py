"""What the supervisor knows about each part, as it is shown, written to the record and read back."""

from __future__ import annotations

import enum
import time
from dataclasses import asdict, dataclass, field
from typing import Any


class State(enum.StrEnum):
    """The state of a part."""

    WAITING = "waiting"
    """For parts that it needs."""
    PREPARING = "preparing"
    """Makes files or downloads what it needs."""
    STARTING = "starting"
    """Its process runs and does not serve yet."""
    HEALTHY = "healthy"
    """It serves."""
    DONE = "done"
    """A one-shot process ended well."""
    UNHEALTHY = "unhealthy"
    """It served, runs, and says that it cannot serve now."""
    RESTARTING = "restarting"
    """Its process died; the next one waits its turn."""
    FAILED = "failed"
    """It could not be started; the supervisor gave up."""
    STOPPED = "stopped"
    """It was asked to end, and did."""


GOOD = frozenset({State.HEALTHY, State.DONE})


@dataclass
class PartStatus:
    """One row of the table."""

    name: str
    address: str = ""
    state: State = State.WAITING
    why: str = ""
    since: float = field(default_factory=time.time)
    """Seconds since the epoch at which the state began."""
    took: float | None = None
    """Seconds from the start of its preparation until it was healthy the first time."""
    restarts: int = 0
    pid: int | None = None
    started: float = 0.0
    """The kernel's time of the start of `pid`."""

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON data."""
        return asdict(self)

    @staticmethod
    def from_dict(row: dict[str, Any]) -> PartStatus:
        """The row from JSON data."""
        return PartStatus(**row | {"state": State(row["state"])})
