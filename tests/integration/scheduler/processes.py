"""The scheduler and the relay as processes of their own, to be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


class Process:
    """`python -m MODULE`, started again after each kill."""

    def __init__(self, module: str, environment: Mapping[str, str], log: Path) -> None:
        self._module = module
        self._environment = {**os.environ, **environment}
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._begun_at = 0

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._begun_at = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", self._module, cwd=ROOT, env=self._environment, stdout=log, stderr=log
            )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def ended(self) -> int:
        """Waits until it has ended by itself; gives the exit code."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM; gives the exit code: 0 as well when it had only just begun, and had not yet come to listen to signals."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(20):
                code = await self._process.wait()
        except TimeoutError:
            await self.kill()
            raise AssertionError(f"{self._module} did not stop; see {self._log.read_text()[-3000:]}") from None
        return 0 if code == -signal.SIGTERM and self._log.stat().st_size == self._begun_at else code

    def tail(self) -> str:
        """The end of what it logged."""
        return self._log.read_text()[-3000:]
