"""How far publishing is behind: how many events wait for Kafka, and since when."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, dataclass

from services.common.db.engine_role import EngineDriver
from services.scheduler.domain.errors import EventsLate

_CACHE_SECONDS = 0.5
_OUTBOX = """
SELECT COALESCE(sum(events), 0)::bigint,
  COALESCE(extract(epoch FROM max(clock_timestamp() - create_time)), 0)::float FROM outbox
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for Kafka."""

    events: int
    oldest_seconds: float
    """age of the oldest; 0 when none waits."""
    late: bool
    """whether it is older than it may be."""


class Lag:
    """Looks at the outbox of all lanes, whoever has them, so that any relay can tell."""

    def __init__(self, database: EngineDriver, late_seconds: float) -> None:
        self._database = database
        self._late_seconds = late_seconds
        self._begun = time.monotonic()
        self._lock = asyncio.Lock()
        self._read = -_CACHE_SECONDS
        self._waiting = Waiting(0, 0.0, late=False)

    async def waiting(self) -> Waiting:
        """What waits, at most half a second ago; raises DependencyUnavailable when the database does not answer."""
        async with self._lock:
            if time.monotonic() - self._read >= _CACHE_SECONDS:
                async with self._database.transaction() as connection:
                    events, seconds = await connection.fetchrow(_OUTBOX)
                self._waiting = Waiting(events, seconds, seconds > self._late_seconds)
                self._read = time.monotonic()
            return self._waiting

    async def check(self) -> None:
        """Raises EventsLate when the oldest has waited for too long, and this relay has had as long to publish it."""
        waiting = await self.waiting()
        if waiting.late and time.monotonic() - self._begun > self._late_seconds:
            raise EventsLate(waiting.events, waiting.oldest_seconds)

    async def route(self) -> tuple[str, bytes]:
        """The admin port's /lag: what waits, as JSON."""
        return "application/json", json.dumps(asdict(await self.waiting())).encode()
