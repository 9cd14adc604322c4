"""Keeps one part running: starts it, watches it, starts it again when it dies."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

from services.embedded import processes
from services.embedded.errors import MeshError, NotReady
from services.embedded.parts.part import Part
from services.embedded.status import PartStatus, State

_T = TypeVar("_T")

LOOK_SECONDS = 0.1
"""Between two looks at a part: is it ready yet, has it died, is it held."""
WATCH_SECONDS = 3.0
"""Between two checks of a part that serves."""
FIRST_BACKOFF = 0.25
LAST_BACKOFF = 15.0
STEADY_SECONDS = 30.0
"""A process that lived this long starts again with the first back-off."""
START_ATTEMPTS = 4
"""Deaths of a part that has never been healthy, after which it has failed."""


class Keeper:
    """One part and its process. Others wait for `healthy` and read `status`."""

    def __init__(
        self, part: Part, log: Path, hold: Path, threads: Executor, on_change: Callable[[], None] = lambda: None
    ) -> None:
        """Describes the part; nothing is started.

        Args:
            part: what to keep running.
            log: file for its output.
            hold: while this file exists the part is stopped.
            threads: for what blocks.
            on_change: called in the loop whenever the status changed.
        """
        self.part = part
        self.status = PartStatus(part.name, part.address())
        self.healthy = asyncio.Event()
        """Set when the part was healthy for the first time, and never cleared."""
        self.log = log
        self._hold = hold
        self._threads = threads
        self._on_change = on_change
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0

    async def run(self, needs: list[asyncio.Event]) -> None:
        """Starts the part when its needs are met and keeps it running until cancelled, done or failed."""
        try:
            for need in needs:
                await need.wait()
            self._began = time.monotonic()
            self._set(State.PREPARING, self.part.preparation)
            await self._in_thread(self.part.prepare)
            await self._keep()
        except Exception as error:
            await asyncio.to_thread(self._reap)
            self._set(State.FAILED, str(error) if isinstance(error, MeshError) else f"{type(error).__name__}: {error}")

    async def _keep(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            await self._while_held()
            launched = time.monotonic()
            why = await self._live()
            if self.status.state is State.DONE:
                return
            if self._hold.exists():
                continue
            self.status.restarts += 1
            if not self.healthy.is_set() and self.status.restarts >= START_ATTEMPTS:
                raise MeshError(why)
            if time.monotonic() - launched > STEADY_SECONDS:
                backoff = FIRST_BACKOFF
            self._set(State.RESTARTING, why)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, LAST_BACKOFF)

    async def _while_held(self) -> None:
        while self._hold.exists():
            self._set(State.STOPPED, f"held: `guildmesh start {self.part.name}` lets it go on")
            await asyncio.sleep(LOOK_SECONDS)

    async def _live(self) -> str:
        """One process from its start to its end; gives how it ended, empty when it ended well."""
        launch = self.part.launch()
        process = processes.start(launch, self.log)
        self._process = process
        mark = processes.footprint(self.part.name, process.pid)
        self.status.pid, self.status.started = mark.pid, mark.started
        self._set(State.STARTING)
        died = asyncio.create_task(exit_of(process))
        try:
            if not self.part.one_shot:
                await self._watch(died, launch.nice)
            status = await died
        finally:
            died.cancel()
        await asyncio.to_thread(self._reap)
        if self.part.one_shot and status == 0:
            self._was_healthy(State.DONE)
            return ""
        return f"{_ending(status)}: {last_line(self.log)} (see {self.log})"

    async def _watch(self, died: asyncio.Task[int], nice: int) -> None:
        """Looks at the process until it has died, or is held and has been told to end."""
        deadline = time.monotonic() + self.part.start_seconds
        serves = False
        while not died.done():
            problem = await self._problem()
            if died.done():
                return
            if not serves and problem is None:
                serves = True
                if not self.healthy.is_set():
                    await self._in_thread(self.part.finish)
                if nice and self._process is not None:
                    # Not before: on a busy machine it would never get ready.
                    processes.give_way(self._process.pid, nice)
                self._was_healthy(State.HEALTHY)
            elif serves:
                self._set(State.UNHEALTHY if problem else State.HEALTHY, problem or "")
                trim(self.log)
            else:
                self._set(State.STARTING, problem or "")
                if time.monotonic() > deadline and not self.healthy.is_set():
                    raise MeshError(f"not ready after {self.part.start_seconds:g} s: {problem} (see {self.log})")
            next_check = time.monotonic() + (WATCH_SECONDS if serves else 0)
            while True:
                await asyncio.wait({died}, timeout=LOOK_SECONDS)
                if self._hold.exists():
                    await self._ask_to_end()
                    return
                if died.done() or time.monotonic() >= next_check:
                    break

    async def _problem(self) -> str | None:
        try:
            await self._in_thread(self.part.check)
        except NotReady as problem:
            return str(problem)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    async def stop(self) -> None:
        """Ends the process in order, or kills it when that takes too long. Cancel `run` first."""
        late = ""
        if self._process is not None:
            late = await self._ask_to_end()
            await asyncio.to_thread(self._reap)
        if self.status.state is not State.FAILED:
            self._set(State.STOPPED, late)

    def kill(self) -> None:
        """Kills the process and what it started, at once."""
        if self._process is not None:
            processes.kill_group(self._process.pid)

    async def _ask_to_end(self) -> str:
        process = self._process
        if process is None or process.poll() is not None:
            return ""
        # To the leader only: PostgreSQL, for one, ends its own children in order.
        process.send_signal(self.part.launch().stop_signal)
        try:
            await asyncio.wait_for(exit_of(process), self.part.stop_seconds)
        except TimeoutError:
            processes.kill_group(process.pid)
            return f"killed: it did not end within {self.part.stop_seconds:g} s"
        return ""

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            # What it started itself must not outlive it.
            processes.kill_group(process.pid)
            process.wait()
        self.status.pid = None

    def _was_healthy(self, state: State) -> None:
        if not self.healthy.is_set():
            self.status.took = time.monotonic() - self._began
            self.healthy.set()
        self._set(state)

    def _set(self, state: State, why: str = "") -> None:
        row = self.status
        if row.state is state and row.why == why:
            return
        if row.state is not state:
            row.state, row.since = state, time.time()
        row.why = why
        self._on_change()

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


async def exit_of(process: subprocess.Popen[bytes]) -> int:
    """Waits for the end of a child without a thread or a timer; gives its status."""
    if process.poll() is not None:
        return process.returncode
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    handle = os.pidfd_open(process.pid)
    try:
        loop.add_reader(handle, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
    return process.wait()


def trim(log: Path, limit: int = 64 * 1024 * 1024) -> None:
    """Moves a log's content to `NAME.log.1` when it is longer than `limit` bytes; its writer appends and goes on."""
    if log.stat().st_size > limit:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def last_line(log: Path) -> str:
    """The last line of a log that is not empty, shortened."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no log"
    return lines[-1][:300] if lines else "no output"


def _ending(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"
