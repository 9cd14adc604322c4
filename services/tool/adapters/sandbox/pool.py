"""A Sandbox made of an engine: how many runs at once, and sandboxes started ahead of their program.

Starting a sandbox takes longer than a short program. So some are started before they are asked for; each waits at its
standard input, costs no processor time, and runs one program only.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.tool.adapters.sandbox.answer import outcome_of, payload
from services.tool.adapters.sandbox.engine import Engine, Started
from services.tool.domain.errors import SandboxLost, SandboxUnavailable
from services.tool.domain.model import Outcome, Program

MAX_WAIT_SECONDS = 900.0
"""A sandbox that nobody asked for is replaced after so long."""
_T = TypeVar("_T")


class SandboxPool:
    """Runs programs in sandboxes of one engine."""

    def __init__(self, engine: Engine, concurrency: int, warm: int) -> None:
        """Keeps `warm` sandboxes ready and runs at most `concurrency` programs at once."""
        self._engine = engine
        self._warm = warm
        self._ready: deque[tuple[float, Started]] = deque()
        self._slots = asyncio.Semaphore(concurrency)
        # Threads of its own: bubblewrap's children die with the thread that started them, and a run blocks its thread.
        self._threads = ThreadPoolExecutor(concurrency + 1, thread_name_prefix=f"sandbox-{engine.name}")
        self._refilling: asyncio.Task[None] | None = None
        self._running: set[Started] = set()
        self._closed = False
        self._stopped = False

    @property
    def name(self) -> str:
        """The engine's name."""
        return self._engine.name

    @property
    def waiting(self) -> int:
        """Sandboxes that wait for a program."""
        return len(self._ready)

    async def run(self, program: Program) -> Outcome:
        """See Sandbox."""
        async with self._slots:
            if self._closed:
                raise SandboxUnavailable
            started = self._take()
            self._refill()
            return await self._call(lambda: self._run(started, program))

    async def sweep(self) -> None:
        """Removes what dead processes left behind, and what waited too long here."""
        await self._call(self._engine.sweep)
        while self._ready and time.monotonic() - self._ready[0][0] > MAX_WAIT_SECONDS:
            _, started = self._ready.popleft()
            await self._call(started.discard)
        self._refill()

    async def close(self, *, stop: bool = False) -> None:
        """Removes the waiting sandboxes; runs under way end first, and with `stop` at once, as lost."""
        self._closed = True
        self._stopped = stop
        if self._refilling is not None:
            await asyncio.wait([self._refilling])
        while self._ready:
            _, started = self._ready.popleft()
            await asyncio.to_thread(started.discard)
        if stop:
            for started in tuple(self._running):
                await asyncio.to_thread(started.stop)
        await asyncio.to_thread(self._threads.shutdown, wait=True)
        await asyncio.to_thread(self._engine.close)

    def _take(self) -> Started | None:
        while self._ready:
            since, started = self._ready.popleft()
            if time.monotonic() - since <= MAX_WAIT_SECONDS:
                return started
            self._discard(started)
        return None

    def _run(self, started: Started | None, program: Program) -> Outcome:
        data = payload(program, self._engine.limits(program.time_limit))
        if started is not None:
            try:
                return self._follow(started, data, program)
            except SandboxUnavailable:
                # It died while it waited; the program did not reach it, so a fresh one may have it.
                pass
        return self._follow(self._engine.start(), data, program)

    def _follow(self, started: Started, data: bytes, program: Program) -> Outcome:
        self._running.add(started)
        try:
            remains = started.run(data, program.time_limit)
        finally:
            self._running.discard(started)
            self._discard(started)
        if self._stopped:
            raise SandboxLost("the service stops")
        return outcome_of(program, remains)

    def _discard(self, started: Started) -> None:
        # In a thread of its own turn: the answer does not wait for the engine to clean up.
        try:
            self._threads.submit(started.discard)
        except RuntimeError:
            # The pool was closed a moment ago.
            started.discard()

    def _refill(self) -> None:
        if self._closed or len(self._ready) >= self._warm or (self._refilling and not self._refilling.done()):
            return
        self._refilling = asyncio.create_task(self._fill())

    async def _fill(self) -> None:
        try:
            while not self._closed and len(self._ready) < self._warm:
                started = await self._call(self._engine.start)
                self._ready.append((time.monotonic(), started))
        except SandboxUnavailable:
            # The next run says so to its caller.
            return

    async def _call(self, function: Callable[[], _T]) -> _T:
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, function)
        except RuntimeError as error:
            # The pool was closed a moment ago.
            raise SandboxUnavailable from error
        return await future
