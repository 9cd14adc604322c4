"""A circuit breaker (requirement row 11): spares a dependency that is down, and its callers the wait for it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TypeVar

import structlog

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class CircuitState(Enum):
    """What the breaker does with a call."""

    CLOSED = "closed"
    """Lets it through."""
    OPEN = "open"
    """Refuses it at once."""
    HALF_OPEN = "half_open"
    """Lets one through to see, and refuses the others meanwhile."""


class CircuitOpen(Exception):
    """The call was refused without being made.

    Attributes:
        name: of the breaker.
        retry_after: seconds until a call will be let through to see.
    """

    def __init__(self, name: str, retry_after: float) -> None:
        super().__init__(f"The circuit {name!r} is open for another {retry_after:.1f} s.")
        self.name = name
        self.retry_after = retry_after


class CircuitBreaker:
    """Opens after `failures` failures in a row, tries one call after `reset_seconds`, closes when that succeeds.

    It is used in one event loop and holds no lock: its state changes only between awaits.
    """

    def __init__(
        self,
        name: str,
        counts: Callable[[BaseException], bool],
        *,
        failures: int = 5,
        reset_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A closed breaker.

        Args:
            name: for logs and errors.
            counts: whether an exception is a failure of the dependency; others pass and say nothing about it.
            failures: how many in a row open the circuit.
            reset_seconds: how long it stays open before a call is let through to see.
            clock: monotonic seconds.
        """
        self.name = name
        self._counts = counts
        self._limit = failures
        self._reset_seconds = reset_seconds
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False

    @property
    def state(self) -> CircuitState:
        """What the breaker would do with a call now."""
        if self._opened_at is None:
            return CircuitState.CLOSED
        if self._probing or self._clock() - self._opened_at >= self._reset_seconds:
            return CircuitState.HALF_OPEN
        return CircuitState.OPEN

    async def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Awaits `function()`, unless the circuit is open.

        Raises:
            CircuitOpen: the call was refused.
            Exception: what the function raised.
        """
        probe = self._admit()
        try:
            result = await function()
        except BaseException as error:
            if isinstance(error, Exception) and self._counts(error):
                self._failed(probe)
            elif isinstance(error, Exception):
                # An answer that is an error for other reasons (a bad request) still shows that the dependency is there.
                self._succeeded(probe)
            raise
        else:
            self._succeeded(probe)
            return result
        finally:
            if probe:
                self._probing = False

    def _admit(self) -> bool:
        state = self.state
        if state is CircuitState.CLOSED:
            return False
        assert self._opened_at is not None
        if state is CircuitState.OPEN or self._probing:
            raise CircuitOpen(self.name, max(self._reset_seconds - (self._clock() - self._opened_at), 1.0))
        self._probing = True
        _log.info("circuit half open", circuit=self.name)
        return True

    def _failed(self, probe: bool) -> None:
        self._failures += 1
        if probe or (self._opened_at is None and self._failures >= self._limit):
            self._opened_at = self._clock()
            _log.warning("circuit open", circuit=self.name, failures=self._failures, reset_seconds=self._reset_seconds)

    def _succeeded(self, probe: bool) -> None:
        if self._opened_at is not None:
            if not probe:
                # A call from before the circuit opened: what it met then says nothing about now.
                return
            _log.info("circuit closed", circuit=self.name)
        self._failures = 0
        self._opened_at = None
