"""Small real processes that stand for the parts of a mesh."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from services.embedded.errors import MeshError, NotReady
from services.embedded.parts.part import Launch, Part
from services.embedded.ports import LOOPBACK, free_port

_LISTENER = """
import socket, sys, subprocess
if sys.argv[2] == "child":
    subprocess.Popen(["sleep", "1000"])
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    server.accept()[0].close()
"""


class Listener(Part):
    """Accepts connections; healthy when it does."""

    start_seconds = 20.0
    stop_seconds = 5.0

    def __init__(self, name: str, needs: Sequence[str] = (), *, child: bool = False) -> None:
        self.name = name
        self.needs = tuple(needs)
        self.port = free_port()
        self.prepared = 0
        self.finished = 0
        self._child = "child" if child else "alone"

    def prepare(self) -> None:
        self.prepared += 1

    def launch(self) -> Launch:
        return Launch((sys.executable, "-S", "-c", _LISTENER, str(self.port), self._child))

    def check(self) -> None:
        try:
            socket.create_connection((LOOPBACK, self.port), timeout=1).close()
        except OSError as error:
            raise NotReady(str(error)) from error

    def finish(self) -> None:
        self.finished += 1

    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"


class Shell(Part):
    """Runs a shell command; healthy at once unless told to be a one-shot."""

    def __init__(self, name: str, command: str, needs: Sequence[str] = (), *, one_shot: bool = False) -> None:
        self.name = name
        self.needs = tuple(needs)
        self.one_shot = one_shot
        self.stop_seconds = 0.5
        self._command = command

    def launch(self) -> Launch:
        return Launch(("/bin/sh", "-c", self._command))


class Sick(Shell):
    """Runs, and says that it is not ready while a file exists."""

    def __init__(self, name: str, file: Path) -> None:
        super().__init__(name, "exec sleep 1000")
        self._file = file

    def check(self) -> None:
        if self._file.exists():
            raise NotReady("the file is there")


class Broken(Shell):
    """Ends before it was ever ready."""

    def check(self) -> None:
        raise NotReady("nothing listens")


class Unprepared(Shell):
    """Cannot be prepared."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "exec sleep 1000")

    def prepare(self) -> None:
        raise MeshError("No such thing: install it.")
