"""Waiting for something to become true, with a limit; never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable

_POLL = 0.05


def eventually(condition: Callable[[], object], timeout: float = 15.0) -> None:
    """Returns when `condition` is true; the error of its last try, or an AssertionError, after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        error: BaseException | None = None
        try:
            if condition():
                return
        except (AssertionError, OSError, KeyError, ValueError) as caught:
            error = caught
        if time.monotonic() > end:
            raise AssertionError(f"it did not become true within {timeout:g} s") from error
        time.sleep(_POLL)
