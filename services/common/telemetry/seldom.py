"""Lines of a library that come again and again, let through now and then."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

SECONDS = 10.0


@dataclass(slots=True)
class _Place:
    """Where in the library a line comes from."""

    told_at: float
    left_out: int = 0


class Seldom(logging.Filter):
    """Lets what a library's loggers say through once in SECONDS for each place of its code, with how often it was said meanwhile.

    What else it says is let through: another place, or anything of another logger.
    """

    def __init__(self, library: str) -> None:
        """`library` is the name of its topmost logger."""
        super().__init__(library)
        self._places: dict[tuple[str, int], _Place] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is to be written; one after others that were not gets their number."""
        if not super().filter(record):
            return True
        now = time.monotonic()
        place = self._places.setdefault((record.pathname, record.lineno), _Place(-SECONDS))
        if now - place.told_at < SECONDS:
            place.left_out += 1
            return False
        if place.left_out:
            record.msg = f"{record.getMessage()} (and {place.left_out:,} lines like it in the last {now - place.told_at:.0f} s)"
            record.args = None
        place.told_at, place.left_out = now, 0
        return True
