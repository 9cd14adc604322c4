"""PostgreSQL's time, carried on by the monotonic clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from services.common.db import clock as module
from services.common.db.clock import DatabaseClock

NOW = datetime(2026, 11, 25, tzinfo=UTC)


class Connection:
    """A database whose clock says what it is told to."""

    def __init__(self, moment: list[float], takes: float = 0.0) -> None:
        self.moment, self.takes = moment, takes
        self.times = [NOW, NOW + timedelta(hours=1), NOW - timedelta(hours=1)]
        self.asked = 0

    async def fetchval(self, query: str) -> datetime:
        self.asked += 1
        self.moment[0] += self.takes
        return self.times[self.asked - 1]


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moment = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: moment[0])
    return moment


async def test_a_reading_is_carried_on_for_a_second_and_then_made_anew(monotonic: list[float]) -> None:
    connection: Any = Connection(monotonic)
    clock = DatabaseClock()
    assert await clock.read(connection) == NOW
    monotonic[0] += 0.75
    assert await clock.read(connection) == NOW + timedelta(seconds=0.75)
    assert connection.asked == 1
    monotonic[0] += 0.75
    assert await clock.read(connection) == NOW + timedelta(hours=1)
    # A clock that is set back is believed as well.
    monotonic[0] += 1.5
    assert await clock.read(cast(Any, connection)) == NOW - timedelta(hours=1)
    assert connection.asked == 3


async def test_a_reading_that_was_late_to_be_heard_is_not_carried_on(monotonic: list[float]) -> None:
    connection: Any = Connection(monotonic, takes=0.1)
    clock = DatabaseClock()
    assert await clock.read(connection) == NOW
    assert await clock.read(connection) == NOW + timedelta(hours=1)
    assert connection.asked == 2


async def test_a_clock_that_is_never_behind_asks_each_time(monotonic: list[float]) -> None:
    connection: Any = Connection(monotonic)
    clock = DatabaseClock(fresh_seconds=0)
    for moment in connection.times:
        assert await clock.read(connection) == moment
