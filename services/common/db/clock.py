"""PostgreSQL's time, read rarely and carried on by the monotonic clock of this process.

Absolute times exist only in the database. A time that is only told (when an event happened) may be a reading of a moment ago plus
what has passed since by the monotonic clock: it is never ahead of the database's own, since a reading takes time to get here, and
is behind it by less than that, of which no more than _LONGEST_EXCHANGE is accepted. What is compared with the database's clock
(the end of a lease, when a task may start) is reckoned by PostgreSQL itself, which also bears with a clock that is set back.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import asyncpg

_FRESH_SECONDS = 1.0
_LONGEST_EXCHANGE = 0.02
_READ = "SELECT clock_timestamp()"


class DatabaseClock:
    """The time of one database."""

    def __init__(self, fresh_seconds: float = _FRESH_SECONDS) -> None:
        """With `fresh_seconds`, for which a reading is carried on, 0 the database is asked each time: then it is never behind."""
        self._fresh_seconds = fresh_seconds
        self._reading: datetime | None = None
        self._read_at = 0.0

    async def read(self, connection: asyncpg.Connection) -> datetime:
        """The database's time; asks for it when it has not for a while."""
        asked = time.monotonic()
        passed = asked - self._read_at
        if self._reading is not None and passed < self._fresh_seconds:
            return self._reading + timedelta(seconds=passed)
        reading: datetime = await connection.fetchval(_READ)
        received = time.monotonic()
        # A reading that was late to be heard, as on a busy machine, is right now and would be behind for a second.
        self._reading, self._read_at = (reading, received) if received - asked <= _LONGEST_EXCHANGE else (None, 0.0)
        return reading
