"""What a queue allows to start, and how it is shared."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from services.scheduler.domain.task import DEFAULT_PRIORITY

QueueKey = tuple[str, str]
"""tenant (* for a queue of all) and name of a queue."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits and weights of one queue; two are the same when they allow the same."""

    priority: int = DEFAULT_PRIORITY
    max_running: int | None = None
    """tasks that run at once at most."""
    max_running_per_key: int | None = None
    """tasks of one concurrency key that run at once at most."""
    rate_per_second: float | None = None
    rate_burst: int | None = None
    """starts that may come at once when none came before; None for those of a second."""
    paused: bool = False
    weights: tuple[tuple[str, float], ...] = ()
    """of tenants, in the order of their names; 1 where nothing is said."""

    @property
    def burst(self) -> float:
        """How many starts may be saved up."""
        if self.rate_burst is not None:
            return float(self.rate_burst)
        return float(max(1, math.ceil(self.rate_per_second or 0)))


class TokenBucket:
    """Starts that a rate allows. It begins empty: what was started before is not known after a take-over."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens = 0.0
        self._filled_at = clock()

    def tokens(self, limits: Limits) -> float:
        """How many there are now; infinite without a rate."""
        now = self._clock()
        if limits.rate_per_second is None:
            # A rate that comes later begins empty, too.
            self._tokens, self._filled_at = 0.0, now
            return math.inf
        self._tokens = min(limits.burst, self._tokens + (now - self._filled_at) * limits.rate_per_second)
        self._filled_at = now
        return self._tokens

    def spend(self) -> None:
        """Takes one, for a start."""
        self._tokens -= 1

    def give_back(self, limits: Limits) -> None:
        """Puts one back, of a start that did not come about."""
        self._tokens = min(limits.burst, self._tokens + 1)

    def pause(self, limits: Limits) -> float | None:
        """Seconds until there is one; None when there is, or no rate."""
        missing = 1 - self.tokens(limits)
        return missing / limits.rate_per_second if missing > 0 and limits.rate_per_second is not None else None
