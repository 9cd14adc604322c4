"""What is different between one kind of sandbox and another, as blocking calls; `pool` makes a Sandbox of it."""

from __future__ import annotations

from importlib.resources import files
from typing import Protocol

from services.tool.adapters.sandbox.answer import Remains

RUNNER = (files(__package__) / "runner.py").read_text(encoding="utf-8")
PROCESS_LIMIT = 64
SCRATCH_BYTES = 64 * 1024 * 1024
"""Size of /tmp, the only place a program can write to."""
PYTHON_OPTIONS = ("-I", "-B", "-X", "utf8")


class Started(Protocol):
    """A sandbox that is up and waits for its one program."""

    def run(self, payload: bytes, time_limit: float) -> Remains:
        """Gives it the program and follows it to its end or its limit; `discard` must come after, whatever happens.

        Raises:
            SandboxUnavailable: the program did not reach it.
            SandboxLost: it broke while the program ran.
        """
        ...

    def stop(self) -> None:
        """Kills the program, from another thread, while `run` follows it; never raises."""
        ...

    def discard(self) -> None:
        """Removes every trace of it, used or not; never raises."""
        ...


class Engine(Protocol):
    """Starts sandboxes of one kind."""

    name: str

    def limits(self, time_limit: float) -> dict[str, int]:
        """Limits that the runner sets on itself, by the names of resource.setrlimit."""
        ...

    def start(self) -> Started:
        """Starts a sandbox; raises SandboxUnavailable."""
        ...

    def sweep(self) -> None:
        """Removes what processes that died left behind; never raises."""
        ...

    def close(self) -> None:
        """Gives back what the engine holds."""
        ...
