"""How a lane of the relay waits: a busy one gathers, and no wake-up that comes meanwhile is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.scheduler.domain.wake import Wake
from services.scheduler.relay import relay as module
from services.scheduler.relay.outbox import OutboxBatch
from services.scheduler.relay.relay import Relay
from services.scheduler.relay.settings import RelaySettings
from services.scheduler.storage.outbox_codec import OutboxRecord

RECORD = OutboxRecord(0, b"key", b"", b"value", b"snapshot")


class FakeOutbox:
    """The rows of one lane, and when they were read."""

    def __init__(self) -> None:
        self.waiting = 0
        self.reads: list[tuple[float, int]] = []

    async def read(self, lane: int) -> OutboxBatch:
        count, self.waiting = self.waiting, 0
        self.reads.append((asyncio.get_running_loop().time(), count))
        return OutboxBatch(lane, [1] if count else [], [RECORD] * count, full=False)

    async def delete(self, batch: OutboxBatch) -> None: ...


class FakeOwnership:
    async def renew(self) -> dict[int, int]:
        return {0: 1}

    async def holds(self, lane: int, epoch: int) -> bool:
        return True

    async def leave(self) -> None: ...

    def valid(self) -> bool:
        return True


class FakePublisher:
    async def publish(self, records: Sequence[OutboxRecord]) -> None: ...


@asynccontextmanager
async def relaying(monkeypatch: pytest.MonkeyPatch, outbox: FakeOutbox) -> AsyncIterator[Relay]:
    @asynccontextmanager
    async def publisher(*_: Any) -> AsyncIterator[FakePublisher]:
        yield FakePublisher()

    async def topics(_: Any) -> None: ...

    monkeypatch.setattr(module, "open_publisher", publisher)
    monkeypatch.setattr(module, "ensure_topics", topics)
    settings = RelaySettings(_env_file=None, database_url="postgresql://nowhere/none", poll_seconds=60, lease_seconds=600)
    relay = Relay(settings, outbox, FakeOwnership())  # type: ignore[arg-type]
    running = asyncio.create_task(relay.run())
    try:
        await until(lambda: len(outbox.reads) == 1)
        yield relay
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if done():
                return
            await asyncio.sleep(0.001)


def commit(relay: Relay, outbox: FakeOutbox, records: int) -> None:
    outbox.waiting += records
    relay.woken(Wake(origin="test", shards=1))


async def test_what_follows_at_once_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LINGER_SECONDS", 0.2)
    outbox = FakeOutbox()
    async with relaying(monkeypatch, outbox) as relay:
        commit(relay, outbox, 2)
        await asyncio.sleep(0.02)
        commit(relay, outbox, 1)
        await until(lambda: any(count for _, count in outbox.reads))
    assert [count for _, count in outbox.reads if count] == [3]


async def test_a_busy_lane_gathers_until_nothing_more_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GATHERED_PER_SECOND", 1)
    monkeypatch.setattr(module, "_LONGEST_GATHER_SECONDS", 30)
    monkeypatch.setattr(module, "_QUIET_SECONDS", 0.2)
    outbox = FakeOutbox()
    async with relaying(monkeypatch, outbox) as relay:
        commit(relay, outbox, module._MANY)
        await until(lambda: sum(count for _, count in outbox.reads) == module._MANY)
        for _ in range(20):
            commit(relay, outbox, 10)
            await asyncio.sleep(0.02)
        await until(lambda: sum(count for _, count in outbox.reads) == module._MANY + 200)
    assert [count for _, count in outbox.reads if count] == [module._MANY, 200]


async def test_a_lane_that_is_not_busy_does_not_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUIET_SECONDS", 30)
    outbox = FakeOutbox()
    async with relaying(monkeypatch, outbox) as relay:
        for _ in range(3):
            commit(relay, outbox, module._MANY - 1)
            await until(lambda: not outbox.waiting)
