"""By what the start of a task was decided, and that it may be over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fence:
    """By what a start was decided; it is refused when that is over."""

    epoch: int
    limits_version: int
    """grows with each change of a queue."""


class EpochOver(Exception):
    """Another replica has taken over since; what was to be written is not."""


class LimitsChanged(Exception):
    """A queue allows something else than was decided by; nothing is started."""
