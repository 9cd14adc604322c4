"""The supervisor with small real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from services.embedded import keeper as module
from services.embedded.parts.part import Launch, Part
from services.embedded.status import State
from services.embedded.supervisor import Supervisor
from tests.unit.embedded.parts import Broken, Listener, Shell, Sick, Unprepared

_SECONDS = 20.0


class Watched:
    """A supervisor whose changes can be waited for."""

    def __init__(self, parts: list[Part], logs: Path) -> None:
        self._changed = asyncio.Event()
        self.history: list[tuple[str, State]] = []
        self.supervisor = Supervisor(parts, logs, logs / "held", self._note)

    def _note(self) -> None:
        for row in self.supervisor.status.values():
            if (row.name, row.state) not in self.history[-1:]:
                self.history.append((row.name, row.state))
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(_SECONDS):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def state(self, name: str) -> State:
        return self.supervisor.status[name].state


@asynccontextmanager
async def started(parts: list[Part], logs: Path) -> AsyncIterator[Watched]:
    watched = Watched(parts, logs)
    watched.supervisor.start()
    try:
        yield watched
    finally:
        await watched.supervisor.stop()


async def test_a_part_that_serves_gives_way_to_the_others_if_it_is_to(tmp_path: Path) -> None:
    class Patient(Listener):
        def launch(self) -> Launch:
            return replace(super().launch(), nice=7)

    async with started([Patient("behind"), Listener("before")], tmp_path) as watched:
        status = watched.supervisor.status
        await watched.until(lambda: all(row.state is State.HEALTHY for row in status.values()))
        assert psutil.Process(status["behind"].pid).nice() == 7
        assert psutil.Process(status["before"].pid).nice() == os.getpriority(os.PRIO_PROCESS, 0)


async def test_a_part_starts_only_when_what_it_needs_is_healthy(tmp_path: Path) -> None:
    parts: list[Part] = [Listener("web", ["base", "setup"]), Shell("setup", "true", ["base"], one_shot=True), Listener("base")]
    async with started(parts, tmp_path) as watched:
        assert await asyncio.wait_for(watched.supervisor.settled(), _SECONDS)
        order = [name for name, state in watched.history if state in (State.HEALTHY, State.DONE)]
        assert list(dict.fromkeys(order)) == ["base", "setup", "web"]
        assert watched.state("setup") is State.DONE


async def test_a_killed_process_is_started_again_and_set_up_only_once(tmp_path: Path) -> None:
    part = Listener("web")
    async with started([part], tmp_path) as watched:
        await watched.supervisor.settled()
        row = watched.supervisor.status["web"]
        first = row.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await watched.until(lambda: row.restarts == 1 and row.state is State.HEALTHY)
        assert row.pid not in (None, first)
        assert (part.prepared, part.finished) == (1, 1)
        assert (tmp_path / "web.log").exists()


async def test_stopping_leaves_no_process_not_even_grandchildren(tmp_path: Path) -> None:
    async with started(
        [Listener("web", child=True), Shell("deaf", "trap '' TERM; sleep 1000 & wait; wait")], tmp_path
    ) as watched:
        await watched.supervisor.settled()
        processes = [psutil.Process(row.pid) for row in watched.supervisor.status.values() if row.pid]
        processes += [child for process in processes for child in process.children(recursive=True)]
        assert len(processes) >= 3
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert alive == []
    assert {row.state for row in watched.supervisor.status.values()} == {State.STOPPED}
    assert "killed" in watched.supervisor.status["deaf"].why


async def test_parts_stop_after_those_that_need_them(tmp_path: Path) -> None:
    async with started([Listener("base"), Listener("web", ["base"])], tmp_path) as watched:
        await watched.supervisor.settled()
    stops = [name for name, state in watched.history if state is State.STOPPED]
    assert list(dict.fromkeys(stops)) == ["web", "base"]


async def test_a_part_that_keeps_dying_fails_with_its_last_words(tmp_path: Path) -> None:
    async with started([Broken("broken", "echo no such file >&2; exit 3")], tmp_path) as watched:
        assert not await asyncio.wait_for(watched.supervisor.settled(), _SECONDS)
        [row] = watched.supervisor.failed
        assert "ended with status 3" in row.why
        assert "no such file" in row.why


async def test_a_part_that_cannot_be_prepared_says_what_to_do(tmp_path: Path) -> None:
    async with started([Unprepared("kafka")], tmp_path) as watched:
        assert not await asyncio.wait_for(watched.supervisor.settled(), _SECONDS)
        assert watched.supervisor.failed[0].why == "No such thing: install it."


async def test_a_part_that_says_it_is_not_ready_is_shown_and_not_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.05)
    file = tmp_path / "sick"
    async with started([Sick("api", file)], tmp_path) as watched:
        await watched.supervisor.settled()
        file.touch()
        await watched.until(lambda: watched.state("api") is State.UNHEALTHY)
        assert watched.supervisor.status["api"].why == "the file is there"
        file.unlink()
        await watched.until(lambda: watched.state("api") is State.HEALTHY)
        assert watched.supervisor.status["api"].restarts == 0


async def test_a_held_part_stays_down_until_it_is_let_go(tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.mkdir()
    async with started([Listener("web")], tmp_path) as watched:
        await watched.supervisor.settled()
        (held / "web").touch()
        await watched.until(lambda: watched.state("web") is State.STOPPED)
        assert watched.supervisor.status["web"].pid is None
        (held / "web").unlink()
        await watched.until(lambda: watched.state("web") is State.HEALTHY)
        assert watched.supervisor.status["web"].restarts == 0


def test_needs_must_be_parts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="database"):
        Supervisor([Shell("api", "true", ["database"])], tmp_path, tmp_path)


def test_a_log_that_grew_long_is_moved_aside_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    with log.open("ab") as writer:
        writer.write(b"old\n" * 10)
        writer.flush()
        module.trim(log, limit=20)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "api.log.1").read_bytes() == b"old\n" * 10
