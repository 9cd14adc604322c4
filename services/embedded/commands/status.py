"""`guildmesh status`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from services.embedded import mesh
from services.embedded.commands.console import one_line_errors, open_state, out
from services.embedded.display import table
from services.embedded.status import GOOD


def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False) -> None:
    """Show each part; exit 0 when all are healthy, 1 when not, 3 when no mesh runs."""
    with one_line_errors():
        _, state = open_state()
        snapshot = mesh.look(state)
    running = state.is_locked()
    if as_json:
        rows = [row.as_dict() for row in snapshot.rows]
        typer.echo(json.dumps({"phase": snapshot.phase, "url": snapshot.url, "parts": rows}, indent=1))
    elif not running:
        out.print(f"No mesh runs from {state.path}; start one with `guildmesh up`.", highlight=False, soft_wrap=True)
    else:
        out.print(table(snapshot.rows))
    if not running:
        raise typer.Exit(3)
    if not all(row.state in GOOD for row in snapshot.rows):
        raise typer.Exit(1)
