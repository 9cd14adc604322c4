"""The processes of a cluster: started again whenever they end, as a supervisor would do it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from services.common.failpoints import CRASH_STATUS
from services.embedded import launcher

STOP_SECONDS = 30.0
_KILLED = -int(signal.SIGKILL)
_PAUSE_SECONDS = 0.05
# It dies with whoever started it, however that one ends.
_LAUNCHER = ("-I", "-S", str(Path(launcher.__file__)), str(int(signal.SIGKILL)))


class Spawned:
    """A process that a spawner has started."""

    def __init__(self, pid: int, status: Awaitable[bytes]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    async def wait(self) -> int:
        """Waits for its end."""
        # A spawner that was killed took its process with it.
        self.returncode = int(await self._status or _KILLED)
        return self.returncode


class Spawner:
    """A process that has imported a program, and becomes it in the time of a fork (see spawner.py)."""

    def __init__(self, module: str, imported: str) -> None:
        self._arguments = ("-m", "tests.faults.spawner", module, imported)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, folder: Path, environment: Mapping[str, str], log: Path) -> Spawned:
        """Starts the program once; the one before must have ended."""
        if self._process is None:
            with log.open("ab") as output:
                self._process = await asyncio.create_subprocess_exec(
                    *_launched(self._arguments),
                    cwd=folder,
                    env={**os.environ, **environment},
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=output,
                )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(dict(environment)).encode() + b"\n")
        return Spawned(int(await self._process.stdout.readline()), self._process.stdout.readline())

    async def close(self) -> None:
        """Ends it; its program must have ended."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()


def _launched(arguments: Sequence[str]) -> tuple[str, ...]:
    return (sys.executable, *_LAUNCHER, str(os.getpid()), "-1", "-1", sys.executable, *arguments)


def _handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


class Member:
    """`python -m MODULE`, for as long as the cluster lives."""

    def __init__(
        self,
        name: str,
        module: str,
        environment: Callable[[int], Mapping[str, str]],
        folder: Path,
        log: Path,
        died: Callable[[str], None],
        spawner: Spawner | None = None,
    ) -> None:
        """Runs in `folder`; `environment` gets the number of the life, from 1; `died` hears of a death that nobody meant.

        With a spawner a life begins with the program imported, which takes a processor a second otherwise.
        """
        self.name = name
        self.lives = 0
        self._module = module
        self._spawner = spawner
        self._environment = environment
        self._folder = folder
        self._log = log
        self._heard = 0
        self._died = died
        self._process: asyncio.subprocess.Process | Spawned | None = None
        self._stopping = False
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins the first life."""
        self._loop = asyncio.create_task(self._live())

    @property
    def pid(self) -> int | None:
        """The process, while one lives."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    def send(self, number: signal.Signals) -> bool:
        """Sends a signal; whether there was a process to get it."""
        if self.pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return True

    async def stop(self) -> int:
        """Ends it in order, or after 30 s by force; gives the exit status."""
        self._stopping = True
        if self._loop is None:
            return 0
        self.send(signal.SIGCONT)
        told: int | None = None
        try:
            async with asyncio.timeout(STOP_SECONDS):
                while not self._loop.done():
                    # One that has just begun would end as anything ends that has no handler yet.
                    if self.pid is not None and self.pid != told and _handles(self.pid, signal.SIGTERM):
                        told = self.pid
                        self.send(signal.SIGTERM)
                    await asyncio.wait({self._loop}, timeout=_PAUSE_SECONDS)
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self._loop
        if self._spawner is not None:
            await self._spawner.close()
        return 0 if self._process is None or self._process.returncode is None else self._process.returncode

    def tail(self, size: int = 3000) -> str:
        """The end of what it wrote."""
        return self._log.read_text(errors="replace")[-size:] if self._log.exists() else ""

    def news(self) -> str:
        """The whole lines that it wrote since this was asked for the last time."""
        if not self._log.exists():
            return ""
        with self._log.open("rb") as log:
            log.seek(self._heard)
            text = log.read()
        text = text[: text.rfind(b"\n") + 1]
        self._heard += len(text)
        return text.decode(errors="replace")

    async def _live(self) -> None:
        while not self._stopping:
            self.lives += 1
            self._process = await self._begin()
            status = await self._process.wait()
            if not self._stopping and status not in (_KILLED, CRASH_STATUS):
                self._died(f"{self.name} ended with {status}: {self.tail(1000)}")
            if not self._stopping:
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _begin(self) -> asyncio.subprocess.Process | Spawned:
        environment = self._environment(self.lives)
        if self._spawner is not None:
            return await self._spawner.start(self._folder, environment, self._log)
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *_launched(("-m", self._module)),
                cwd=self._folder,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
