"""The operator's commands, which the client's `guildmesh` program finds by the entry point group `guildmesh.commands`."""

from __future__ import annotations

import typer

from services.embedded.commands import events
from services.embedded.commands.doctor import doctor
from services.embedded.commands.down import down
from services.embedded.commands.env import env
from services.embedded.commands.hold import start, stop
from services.embedded.commands.logs import logs
from services.embedded.commands.status import status
from services.embedded.commands.up import up

app = typer.Typer()
for command in (up, down, status, stop, start, logs, doctor, env):
    app.command()(command)
app.add_typer(events.app, name="events")
