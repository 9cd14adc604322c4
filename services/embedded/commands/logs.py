"""`guildmesh logs`."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from services.embedded.commands.console import fail, one_line_errors, open_state

_POLL_SECONDS = 0.2


def logs(
    name: Annotated[str, typer.Argument(help="A part, as `guildmesh status` names it.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 200,
) -> None:
    """Print the log of a part."""
    with one_line_errors():
        _, state = open_state()
        known = sorted(path.name.removesuffix(".log") for path in state.logs.glob("*.log"))
    if name not in known:
        fail(f"No log of {name!r}; there are: {', '.join(known) or 'none yet, start the mesh with guildmesh up'}.")
    log = state.logs / f"{name}.log"
    try:
        position = _print_end(log, lines)
        while follow:
            size = log.stat().st_size if log.exists() else 0
            if size < position:
                position = 0  # It was trimmed, or belongs to a new run.
            if size > position:
                position = _print_from(log, position)
            else:
                time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # Such as `guildmesh logs agent | head`: whoever reads has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_end(log: Path, lines: int) -> int:
    with log.open("rb") as file:
        last = deque(file, maxlen=lines)
        position = file.tell()
    sys.stdout.write(b"".join(last).decode(errors="replace"))
    sys.stdout.flush()
    return position


def _print_from(log: Path, position: int) -> int:
    with log.open("rb") as file:
        file.seek(position)
        sys.stdout.write(file.read().decode(errors="replace"))
        sys.stdout.flush()
        return file.tell()
