"""What the supervisor and the tests need to know about a part: how to start, check and stop it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.embedded.accounts import Account

# What a child needs of our environment; everything else a part names itself, so that a stray variable cannot change it.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME", "PYTHONDONTWRITEBYTECODE")


def base_environment() -> dict[str, str]:
    """The few variables of our own environment that every part gets."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}


@dataclass(frozen=True)
class Launch:
    """How to start one process."""

    argv: tuple[str, ...]
    """The program and its arguments."""
    environment: Mapping[str, str] = field(default_factory=base_environment)
    """The whole environment of the process."""
    folder: Path | None = None
    """The working directory, or None for ours."""
    account: Account | None = None
    """The account to run as, or None for ours."""
    stop_signal: signal.Signals = signal.SIGTERM
    """The signal that asks the process to end in order; it also gets it when its starter dies."""
    nice: int = 0
    """How far it gives way to the others, once it serves, when there is too little processor for all: 0 (not at all) to 19."""


class Part:
    """One process of the mesh. A subclass says how it is started and how one sees that it serves."""

    name: str
    """Unique in a mesh; names its log and its row in the table."""
    needs: tuple[str, ...] = ()
    """Names of the parts that must be healthy before this one is started."""
    uses: tuple[str, ...] = ()
    """Names of further parts that it can start without, and that are stopped only after it."""
    preparation: str = ""
    """What `prepare` does that may take long, for people."""
    one_shot: bool = False
    """True for a process that does something and ends with 0; the part is healthy then."""
    start_seconds: float = 60.0
    """How long it may take until the first successful check."""
    stop_seconds: float = 10.0
    """How long it may take to end in order before it is killed."""

    def prepare(self) -> None:
        """Makes what the process needs before its first start (files, downloads). May block; may raise MeshError."""

    def launch(self) -> Launch:
        """How to start the process."""
        raise NotImplementedError

    def check(self) -> None:
        """Returns when the part serves; raises NotReady when it does not yet. Blocks for two seconds at most."""

    def finish(self) -> None:
        """Done once after the first successful check and before others may use the part. May block."""

    def address(self) -> str:
        """Where the part listens, for people; empty when it listens nowhere."""
        return ""
