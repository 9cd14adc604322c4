"""What clients and workers asked for and were told, as JSON lines that survive a kill -9 of their writer.

Each operation is an `invoke` line and, once it is known, one line with its outcome: `ok` (it happened), `fail` (it certainly did
not) or `info` (nobody knows). An operation without an outcome line is `info`.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OK, FAIL, INFO = "ok", "fail", "info"


@dataclass(frozen=True)
class Operation:
    """One thing that somebody asked for.

    `what` is create, cancel, signal, replay, pause, resume, lease, run (of a task's function), complete, step, wait or failure.
        Times are CLOCK_MONOTONIC, which all processes of a machine share.
    """

    who: str
    what: str
    outcome: str
    begun: float
    ended: float | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)


class Recorder:
    """Writes one process's lines; a line is one write, so that a killed process leaves no half of one."""

    def __init__(self, file: Path, who: str) -> None:
        self._handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._who = who
        self._next = 0
        self._lock = threading.Lock()

    def invoke(self, what: str, **asked: Any) -> int:
        """Says that something is asked for; gives the number by which its outcome is told."""
        with self._lock:
            self._next += 1
            number = self._next
        self._write({"op": number, "type": "invoke", "what": what, "data": asked})
        return number

    def outcome(self, number: int, outcome: str, **told: Any) -> None:
        """Says what became of it."""
        self._write({"op": number, "type": outcome, "data": told})

    def note(self, what: str, **asked: Any) -> None:
        """Says something that needs no answer, such as a lease that arrived."""
        self.outcome(self.invoke(what, **asked), OK)

    def close(self) -> None:
        """Ends the file."""
        os.close(self._handle)

    def _write(self, line: dict[str, Any]) -> None:
        text = json.dumps({"t": time.monotonic(), "who": self._who, **line}, separators=(",", ":"))
        os.write(self._handle, text.encode() + b"\n")


def sizes(files: Iterable[Path]) -> dict[Path, int]:
    """How many bytes each file has now."""
    return {file: file.stat().st_size for file in files}


def read(files: Iterable[Path], since: Mapping[Path, int] | None = None) -> list[Operation]:
    """The operations of some files. Each file is one process's; a process that was started again has another `who`.

    With `since` only those that began after a file had so many bytes.
    """
    found: list[Operation] = []
    for file in files:
        begun: dict[tuple[str, int], dict[str, Any]] = {}
        ended: dict[tuple[str, int], dict[str, Any]] = {}
        for text in _lines(file, since.get(file, 0) if since else 0):
            line = json.loads(text)
            (begun if line["type"] == "invoke" else ended)[line["who"], line["op"]] = line
        for key, line in begun.items():
            end = ended.get(key)
            found.append(
                Operation(
                    who=line["who"],
                    what=line["what"],
                    outcome=end["type"] if end else INFO,
                    begun=line["t"],
                    ended=end["t"] if end else None,
                    asked=line["data"],
                    told=end["data"] if end else {},
                )
            )
    return sorted(found, key=lambda operation: operation.begun)


def _lines(file: Path, start: int) -> list[str]:
    with file.open("rb") as handle:
        handle.seek(start)
        return handle.read().decode().splitlines()


def digest(value: bytes) -> str:
    """A short name for some bytes."""
    return hashlib.blake2b(value, digest_size=8).hexdigest()
