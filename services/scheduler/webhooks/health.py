"""Which receivers take nothing, or cannot be sent anything, kept where their tenants see it; and what is kept too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import structlog
from prometheus_client import Gauge

from services.common.db.engine_role import EngineDriver
from services.common.errors import DomainError

log = structlog.get_logger(__name__)

states = Gauge("guildmesh_webhooks", "Webhooks by state.", ["state"])
waiting = Gauge("guildmesh_webhook_waiting_events", "Events that were taken out of the topic and wait for their delivery.")
failed = Gauge("guildmesh_webhook_failed_deliveries", "Deliveries that failed for good and are kept.")

_FAILING = "UPDATE webhooks SET failing_since = COALESCE(failing_since, clock_timestamp()), last_error = $2 WHERE uid = $1"
_WORKS = "UPDATE webhooks SET failing_since = NULL WHERE uid = $1 AND failing_since IS NOT NULL"
_GONE = """
UPDATE webhooks SET paused = true, failing_since = NULL, last_error = $2, version = version + 1, update_time = clock_timestamp()
WHERE uid = $1
"""
_EXPIRED = """
DELETE FROM webhook_deliveries WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM webhook_deliveries WHERE fail_time < clock_timestamp() - $1::interval ORDER BY fail_time LIMIT 1000
))
"""
_STATES = """
SELECT count(*) FILTER (WHERE NOT paused AND failing_since IS NULL), count(*) FILTER (WHERE paused),
  count(*) FILTER (WHERE NOT paused AND failing_since IS NOT NULL) FROM webhooks
"""
_NUMBERS = (
    "SELECT count(*) FILTER (WHERE fail_time IS NULL), count(*) FILTER (WHERE fail_time IS NOT NULL) FROM webhook_deliveries"
)
_LONGEST_PAUSE = 2.0
_LOOK_SECONDS = 10.0


class Health:
    """Writes down what becomes of receivers, in its turn, so that no delivery waits for it."""

    def __init__(self, database: EngineDriver, keep: timedelta, speaks: Callable[[], bool]) -> None:
        """Failed deliveries are kept for `keep`; one process of all (`speaks`) tells the gauges."""
        self._database = database
        self._keep = keep
        self._speaks = speaks
        self._changes: dict[str, tuple[str, str]] = {}
        self._wanted = asyncio.Event()

    def changed(self, uid: str, error: str | None) -> None:
        """A receiver takes nothing any more, or nothing can be sent to it, or (None) that is over."""
        self._note(uid, _WORKS if error is None else _FAILING, error or "")

    def gone(self, uid: str, error: str) -> None:
        """A receiver wants nothing any more."""
        self._note(uid, _GONE, f"paused, since the receiver is gone: {error}")

    def _note(self, uid: str, statement: str, error: str) -> None:
        self._changes[uid] = statement, error
        self._wanted.set()

    async def run(self) -> None:
        """Writes until cancelled; survives the database being away."""
        looked = 0.0
        while True:
            try:
                await self._write()
                now = asyncio.get_running_loop().time()
                if now - looked > _LOOK_SECONDS:
                    looked = now
                    await self._look()
            except DomainError as error:
                log.warning("webhook_states_not_written", error=str(error))
                await asyncio.sleep(_LONGEST_PAUSE)
            except Exception:
                log.exception("webhook_states_not_written")
                await asyncio.sleep(_LONGEST_PAUSE)
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _write(self) -> None:
        self._wanted.clear()
        for uid, (statement, error) in list(self._changes.items()):
            arguments = (uid,) if statement is _WORKS else (uid, error)
            async with self._database.transaction() as connection:
                await connection.execute(statement, *arguments)
            if self._changes.get(uid) == (statement, error):
                del self._changes[uid]

    async def _look(self) -> None:
        states.clear()
        if not self._speaks():
            waiting.set(0)
            failed.set(0)
            return
        async with self._database.transaction() as connection:
            await connection.execute(_EXPIRED, self._keep)
            active, paused, failing = await connection.fetchrow(_STATES)
            waits, gave_up = await connection.fetchrow(_NUMBERS)
        for state, number in (("active", active), ("paused", paused), ("failing", failing)):
            states.labels(state).set(number)
        waiting.set(waits)
        failed.set(gave_up)
