"""What a library says again and again is written once in a while, with how often it was said."""

from __future__ import annotations

import logging

import pytest

from services.common.telemetry import seldom
from services.common.telemetry.seldom import SECONDS, Seldom


class Kept(logging.Handler):
    """What a handler with the filter writes."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.addFilter(Seldom("aiokafka"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a list of one."""
    now = [1.0]
    monkeypatch.setattr(seldom.time, "monotonic", lambda: now[0])
    return now


def test_a_place_of_the_library_speaks_once_in_a_while_and_says_what_it_left_out(clock: list[float]) -> None:
    kept = Kept()
    library, other = logging.Logger("aiokafka.consumer.fetcher"), logging.Logger("aiokafkas")
    library.addHandler(kept)
    other.addHandler(kept)

    def say(node: int) -> None:
        library.error("Failed fetch messages from %s", node)

    for node in range(1_235):
        say(node)
    library.warning("another place")
    for _ in range(3):
        other.error("another library")
    assert kept.lines == ["Failed fetch messages from 0", "another place", *["another library"] * 3]
    kept.lines.clear()
    clock[0] += SECONDS
    say(1)
    say(2)
    assert kept.lines == ["Failed fetch messages from 1 (and 1,234 lines like it in the last 10 s)"]
    clock[0] += SECONDS
    say(3)
    assert kept.lines[1:] == ["Failed fetch messages from 3 (and 1 lines like it in the last 10 s)"]
    clock[0] += SECONDS
    say(4)
    assert kept.lines[2:] == ["Failed fetch messages from 4"]
