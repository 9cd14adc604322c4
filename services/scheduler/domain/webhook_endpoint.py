"""When a receiver is tried: how many events at once, and how seldom while it takes nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass

from services.scheduler.domain.webhook import Delivered


@dataclass(frozen=True, slots=True)
class RetryRules:
    """How a refused event, and a receiver that takes nothing, are tried again."""

    first_seconds: float
    longest_seconds: float
    """between two tries of an event."""
    longest_closed_seconds: float
    """between two tries of a receiver that takes nothing."""
    most_attempts: int
    """after which an event is given up."""
    most_failures: int
    """in a row, of any events, after which the receiver counts as one that takes nothing."""

    def pause(self, attempts: int) -> float:
        """Seconds after which an event that was refused so often is tried again: twice as long each time, ± 20 %."""
        return _grown(self.first_seconds, attempts, self.longest_seconds)

    def closed_pause(self, tries: int) -> float:
        """Seconds until a receiver that has taken nothing so often is tried again."""
        return _grown(self.first_seconds, tries, self.longest_closed_seconds)


class Endpoint:
    """A receiver, as this process knows it. It is closed while it takes nothing; then one event at a time is tried, now and then.

    Times are seconds by the monotonic clock.
    """

    def __init__(self, rules: RetryRules, most: int, *, closed: bool) -> None:
        """At most `most` events are under way at once; `closed` when it took nothing when it was last seen."""
        self.closed = closed
        self.in_flight = 0
        self.last_error = ""
        self._rules = rules
        self._most = most
        self._failures = rules.most_failures if closed else 0
        self._not_before = 0.0
        self._asked_until = 0.0
        """until when it asked to be left alone, which what was under way and is taken does not change."""

    def free(self, now: float) -> int:
        """How many more events may be sent."""
        if self.pause(now) > 0:
            return 0
        return max(0, (1 if self.closed else self._most) - self.in_flight)

    def pause(self, now: float) -> float:
        """Seconds until it may be tried; 0 for at once."""
        return max(0.0, self._not_before - now, self._asked_until - now)

    def told(self, delivered: Delivered, now: float) -> bool:
        """Takes note of a try; says whether that opened or closed it."""
        was_closed = self.closed
        if delivered.taken:
            self._failures = 0
            self._not_before = 0.0
            self.closed = False
            return was_closed
        if was_closed and now < self._not_before:
            # It was sent before the receiver was closed, and says no more than that.
            return False
        self._failures += 1
        self.last_error = delivered.error
        if self._failures >= self._rules.most_failures:
            self.closed = True
        if delivered.retry_after is not None:
            self._asked_until = max(self._asked_until, now + delivered.retry_after)
        if self.closed:
            tries = self._failures - self._rules.most_failures + 1
            self._not_before = max(self._not_before, now + self._rules.closed_pause(tries))
        return self.closed != was_closed


def _grown(first: float, times: int, longest: float) -> float:
    return min(first * 2.0 ** min(times - 1, 40), longest) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
