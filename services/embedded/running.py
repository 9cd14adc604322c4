"""Runs one part by itself, without a supervisor: what tests and single tools need."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path

from services.embedded import processes
from services.embedded.errors import MeshError, NotReady
from services.embedded.parts.part import Part

_PAUSE_SECONDS = 0.05


class RunningPart:
    """A part that can be started, stopped, killed and started again on the same port and data."""

    def __init__(self, part: Part, log: Path) -> None:
        """Describes it; nothing is started yet. Its output goes to `log`."""
        self.part = part
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._finished = False

    def start(self) -> None:
        """Starts the part and returns when it serves; raises MeshError when it does not in time."""
        self.part.prepare()
        self._process = processes.start(self.part.launch(), self._log)
        deadline = time.monotonic() + self.part.start_seconds
        while True:
            try:
                self.part.check()
                break
            except NotReady as problem:
                status = self._process.poll()
                if status is not None or time.monotonic() > deadline:
                    self.kill()
                    how = f"ended with {status}" if status is not None else f"did not get ready: {problem}"
                    raise MeshError(f"{self.part.name} {how} (see {self._log}).") from problem
            time.sleep(_PAUSE_SECONDS)
        if not self._finished:
            self.part.finish()
            self._finished = True

    @property
    def runs(self) -> bool:
        """Whether it was started and not ended by us."""
        return self._process is not None

    def stop(self) -> None:
        """Ends the part in order and waits for its end."""
        self._end(self.part.launch().stop_signal)

    def kill(self) -> None:
        """Kills the part as a crash would, and waits for its end."""
        self._end(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Sends the part a signal, such as SIGSTOP to have it stand still while its connections live."""
        assert self._process is not None, "it runs"
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if number is signal.SIGKILL:
            processes.kill_group(process.pid)
        else:
            with contextlib.suppress(ProcessLookupError):
                # To the leader only: PostgreSQL ends its own children in order.
                process.send_signal(number)
        try:
            process.wait(self.part.stop_seconds)
        except subprocess.TimeoutExpired:
            processes.kill_group(process.pid)
            process.wait()
