"""When to try again after a failed attempt: exponential back-off with jitter (requirement row 12)."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """As guildmesh.scheduler.v1.RetryPolicy, with its defaults."""

    initial_ms: int = 1000
    max_ms: int = 10_000
    multiplier: float = 2.0
    jitter: float = 0.2
    """share of a wait by which it may differ, either way."""
    non_retryable: tuple[str, ...] = ()
    """reasons after which a task is not tried again."""

    def back_off(self, attempt: int) -> timedelta:
        """How long to wait after this attempt, which counts from 1."""
        # The limit holds before the power is too large for a float, and after it.
        exponent = min(attempt - 1, 200)
        wait = min(self.initial_ms * self.multiplier**exponent, self.max_ms)
        return timedelta(milliseconds=wait * (1 + self.jitter * random.uniform(-1, 1)))  # noqa: S311 - not a secret

    def encode(self) -> str:
        """As text, for the database."""
        return json.dumps(asdict(self), separators=(",", ":"))


@lru_cache(maxsize=1024)
def decode_retry(text: str | None) -> RetryPolicy:
    """The policy of a text of `RetryPolicy.encode`; the default for None."""
    if text is None:
        return RetryPolicy()
    values = json.loads(text)
    return RetryPolicy(**{**values, "non_retryable": tuple(values["non_retryable"])})
