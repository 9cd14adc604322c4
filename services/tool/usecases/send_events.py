"""Sends what is told of executions to the logs of their tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import structlog
from prometheus_client import Counter

from services.common.errors import DomainError
from services.tool.domain.lanes import LOG_LANES
from services.tool.domain.ports import EventLog, Lanes, LogOutbox
from services.tool.domain.told import EventRefused, LogEvent

MOST_EVENTS = 200
MOST_BYTES = 1 << 20
WAIT_SECONDS = 2.0
"""for which the answer of an execution waits for its events at most."""
_LOOK_SECONDS = 0.05
_LONGEST_PAUSE = 2.0
_log = structlog.get_logger(__name__)
_sent = Counter("guildmesh_tool_log_events", "Events of executions that have their answer from the scheduler.", ["answer"])


class SendEvents:
    """Implements Deliveries; `run` must run beside it. Several processes may, each with lanes of its own.

    An event is deleted only when the scheduler has given its final answer; until then it is sent again, which the scheduler knows
    by its id. So whoever is killed, and wherever, each has one answer.
    """

    def __init__(self, outbox: LogOutbox, log: EventLog, lanes: Lanes, poll_seconds: float) -> None:
        """Looks every `poll_seconds` without being woken."""
        self._outbox = outbox
        self._event_log = log
        self._lanes = lanes
        self._poll_seconds = poll_seconds
        self._wanted = asyncio.Event()
        self._settled = asyncio.Event()

    def woken(self) -> None:
        """Hears that there is something to send."""
        self._wanted.set()

    async def run(self) -> None:
        """Sends until cancelled; survives the scheduler and the database being away."""
        pause = 0.1
        while True:
            self._wanted.clear()
            try:
                while await self._send():
                    pause = 0.1
            except DomainError as error:
                _log.warning("events_not_sent", error=str(error), retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._wanted.wait()

    async def told(self, execution_id: str) -> None:
        """See Deliveries."""
        with suppress(TimeoutError, DomainError):
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    settled = self._settled
                    if not await self._outbox.pending(execution_id):
                        return
                    # Another process may have the lane, and tells nobody here.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_SECONDS):
                            await settled.wait()

    async def _send(self) -> bool:
        """Sends the oldest events of this process's lanes; whether there were any."""
        lanes = [lane for lane in self._lanes.owned() if lane < LOG_LANES]
        events = await self._outbox.read(lanes, MOST_EVENTS, MOST_BYTES) if lanes else ()
        if not events:
            return False
        reasons = await self._append(events)
        await self._outbox.settle(list(zip(events, reasons, strict=True)))
        for event, reason in zip(events, reasons, strict=True):
            _sent.labels(reason or "appended").inc()
            if reason:
                _log.warning("event_refused", execution_id=event.execution_id, reason=reason)
        self._settled.set()
        self._settled = asyncio.Event()
        return True

    async def _append(self, events: Sequence[LogEvent]) -> Sequence[str]:
        """The answers; of events that cannot be read as a whole, those of each half."""
        try:
            return await self._event_log.append(events)
        except EventRefused as error:
            if len(events) == 1:
                _log.error("event_not_readable", execution_id=events[0].execution_id, error=str(error))
                return ["INVALID_ARGUMENT"]
            half = len(events) // 2
            return [*await self._append(events[:half]), *await self._append(events[half:])]
