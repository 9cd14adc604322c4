"""Where the operator's commands write, and how they say that something is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from services.embedded.errors import MeshError
from services.embedded.settings import MeshSettings, load_settings
from services.embedded.state import StateFolder

# A table for a file or a pipe keeps its columns; what reads it has no width.
out = Console(width=None if sys.stdout.isatty() else 250)
err = Console(stderr=True)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns what the operator can do something about into one line on stderr and exit code 1."""
    try:
        yield
    except MeshError as error:
        fail(str(error))


def fail(message: str) -> None:
    """Prints the message and ends with exit code 1."""
    err.print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1)


def open_state() -> tuple[MeshSettings, StateFolder]:
    """The settings, and the state folder that they name."""
    settings = load_settings()
    return settings, StateFolder(settings.state_dir)
