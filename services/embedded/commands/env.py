"""`guildmesh env`."""

from __future__ import annotations

import shlex

import typer

from services.embedded.commands.console import one_line_errors, open_state
from services.embedded.local import local_token, running_mesh


def env() -> None:
    """Print shell exports for clients: eval "$(guildmesh env)"."""
    with one_line_errors():
        settings, state = open_state()
        exports = dict(running_mesh(state).exports)
        if settings.profile == "development":
            exports["GUILDMESH_TOKEN"] = local_token(state)
    for name, value in exports.items():
        typer.echo(f"export {name}={shlex.quote(value)}")
