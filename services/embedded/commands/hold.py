"""`guildmesh stop` and `guildmesh start`: one part of a running mesh."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from services.embedded import mesh
from services.embedded.commands.console import fail, one_line_errors, open_state, out
from services.embedded.local import running_mesh
from services.embedded.state import StateFolder
from services.embedded.status import State

_SECONDS = 60.0
Name = Annotated[str, typer.Argument(help="A part, as `guildmesh status` names it.")]


def stop(name: Name) -> None:
    """Stop one part, such as a database before its machine is changed; the others go on."""
    with one_line_errors():
        state = _state_with(name)
        (state.held / name).touch()
        _wait(state, name, State.STOPPED)
    out.print(f"{name} is stopped; `guildmesh start {name}` lets it go on.", highlight=False)


def start(name: Name) -> None:
    """Start a part again that was stopped."""
    with one_line_errors():
        state = _state_with(name)
        (state.held / name).unlink(missing_ok=True)
        _wait(state, name, State.HEALTHY)
    out.print(f"{name} is healthy.", highlight=False)


def _state_with(name: str) -> StateFolder:
    _, state = open_state()
    # A one-shot part has done its work, so there is nothing to stop.
    known = [row.name for row in running_mesh(state).rows if row.state is not State.DONE]
    if name not in known:
        fail(f"No part {name!r}; there are: {', '.join(known)}.")
    return state


def _wait(state: StateFolder, name: str, wanted: State) -> None:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        [row] = [row for row in mesh.look(state).rows if row.name == name]
        if row.state is wanted:
            return
        time.sleep(0.05)
    fail(f"{name} is {row.state.value} after {_SECONDS:g} s: {row.why or 'no reason is known'}; see `guildmesh logs {name}`.")
