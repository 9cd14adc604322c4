"""Shows what the parts do: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.embedded.status import GOOD, PartStatus, State

_STYLES = {
    State.WAITING: "dim",
    State.PREPARING: "cyan",
    State.STARTING: "cyan",
    State.HEALTHY: "green",
    State.DONE: "green",
    State.UNHEALTHY: "yellow",
    State.RESTARTING: "yellow",
    State.FAILED: "bold red",
    State.STOPPED: "dim",
}
# What a plain log should hold; the steps between would only fill it.
_TOLD = frozenset({State.HEALTHY, State.DONE, State.UNHEALTHY, State.RESTARTING, State.FAILED})


def table(rows: Sequence[PartStatus]) -> Table:
    """The parts as a table."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("part", "state", "for", "start", "restarts", "address", ""):
        shown.add_column(heading, no_wrap=heading != "", overflow="ellipsis")
    now = time.time()
    for row in rows:
        shown.add_row(
            row.name,
            Text(row.state.value, style=_STYLES[row.state]),
            "" if row.state in (State.STOPPED, State.DONE) else duration(now - row.since),
            f"{row.took:.1f} s" if row.took is not None else "",
            str(row.restarts) if row.restarts else "",
            Text(row.address, style="dim"),
            Text("" if row.state in GOOD else row.why, style="dim" if row.state is not State.FAILED else "red"),
        )
    return shown


def duration(seconds: float) -> str:
    """A length of time in its largest unit."""
    for length, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


class Display(Protocol):
    """Shows rows until it is left."""

    def __enter__(self) -> Self:
        """Begins to show."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends."""

    def show(self, rows: Sequence[PartStatus]) -> None:
        """Shows the rows as they are now."""


class LiveTable:
    """The table, drawn again several times a second."""

    def __init__(self, console: Console) -> None:
        """Draws on `console`, which must be a terminal."""
        self._rows: Sequence[PartStatus] = ()
        self._live = Live(console=console, get_renderable=lambda: table(self._rows), refresh_per_second=8)

    def __enter__(self) -> Self:
        """Begins to draw."""
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Draws once more and leaves the table standing."""
        self._live.__exit__(kind, error, trace)

    def show(self, rows: Sequence[PartStatus]) -> None:
        """Draws these rows from now on."""
        self._rows = list(rows)


class Lines:
    """A line whenever a part changed in a way that a reader of a log wants to know."""

    def __init__(self, console: Console) -> None:
        """Prints on `console`."""
        self._console = console
        self._told: dict[str, tuple[State, str]] = {}

    def __enter__(self) -> Self:
        """Does nothing."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Does nothing."""

    def show(self, rows: Sequence[PartStatus]) -> None:
        """Prints what is new."""
        for row in rows:
            if row.state not in _TOLD or self._told.get(row.name) == (row.state, row.why):
                continue
            self._told[row.name] = (row.state, row.why)
            took = f" after {row.took:.1f} s" if row.state in GOOD and row.took is not None and not row.restarts else ""
            why = f": {row.why}" if row.why else ""
            self._console.print(f"{row.name}: {row.state.value}{took}{why}", highlight=False, markup=False, soft_wrap=True)


def display(console: Console) -> LiveTable | Lines:
    """What suits the console."""
    return LiveTable(console) if console.is_terminal else Lines(console)
