"""The processes of a cluster: started again whenever they end, as a supervisor would do it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from services.common.failpoints import CRASH_STATUS
from services.embedded import launcher

STOP_SECONDS = 30.0
_KILLED = -int(signal.SIGKILL)
_PAUSE_SECONDS = 0.05
# It dies with whoever started it, however that one ends.
_LAUNCHER = ("-I", "-S", str(Path(launcher.__file__)), str(int(signal.SIGKILL)))


class Member:
    """`python ARGUMENTS`, for as long as the cluster lives."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Callable[[int], Mapping[str, str]],
        folder: Path,
        log: Path,
        died: Callable[[str], None],
    ) -> None:
        """Runs in `folder`; `environment` gets the number of the life, from 1; `died` hears of a death that nobody meant."""
        self.name = name
        self.lives = 0
        self._arguments = arguments
        self._environment = environment
        self._folder = folder
        self._log = log
        self._heard = 0
        self._died = died
        self._process: asyncio.subprocess.Process | None = None
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
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.shield(self._loop)
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self._loop
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
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *(*_LAUNCHER, str(os.getpid()), "-1", "-1", sys.executable, *self._arguments),
                    cwd=self._folder,
                    env={**os.environ, **self._environment(self.lives)},
                    stdout=log,
                    stderr=log,
                )
            if self._stopping:
                self._process.terminate()
            status = await self._process.wait()
            if not self._stopping and status not in (_KILLED, CRASH_STATUS):
                self._died(f"{self.name} ended with {status}: {self.tail(1000)}")
            if not self._stopping:
                await asyncio.sleep(_PAUSE_SECONDS)
