"""Publishes the records of use."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from services.common.errors import DomainError
from services.tool.domain.lanes import USAGE_LANE
from services.tool.domain.ports import Lanes, UsageOutbox, UsagePublisher, UsageTopic

MOST_USAGES = 500
_LONGEST_PAUSE = 2.0
_log = structlog.get_logger(__name__)


class PublishUsages:
    """Publishes while this process has the lane. A record is deleted only when Kafka has acknowledged it: it comes at least once.

    Whoever was paused beyond its lease publishes nothing more: opening a publisher ends the one before.
    """

    def __init__(self, outbox: UsageOutbox, topic: UsageTopic, lanes: Lanes, poll_seconds: float) -> None:
        """Looks every `poll_seconds` without being woken."""
        self._outbox = outbox
        self._topic = topic
        self._lanes = lanes
        self._poll_seconds = poll_seconds
        self._wanted = asyncio.Event()

    def woken(self) -> None:
        """Hears that there is something to publish."""
        self._wanted.set()

    async def run(self) -> None:
        """Publishes until cancelled; survives Kafka and the database being away."""
        await self._topic.ensure()
        pause = 0.1
        while True:
            self._wanted.clear()
            epoch = self._lanes.owned().get(USAGE_LANE)
            if epoch is None:
                await self._wait()
                continue
            try:
                async with self._topic.open() as publisher:
                    while self._lanes.owned().get(USAGE_LANE) == epoch:
                        await self._flush(publisher)
                        pause = 0.1
            except DomainError as error:
                _log.warning("usages_not_published", error=str(error), retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _flush(self, publisher: UsagePublisher) -> None:
        """Publishes what there is, or waits for something."""
        self._wanted.clear()
        usages = await self._outbox.read(MOST_USAGES)
        if not usages:
            await self._wait()
            return
        await publisher.publish(usages)
        await self._outbox.delete(usages)

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll_seconds):
                await self._wanted.wait()
