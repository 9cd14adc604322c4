"""The command line `guildmesh`: what a client does, and what the installed server distribution adds.

A distribution adds commands by an entry point in the group `guildmesh.commands` that names a typer application. A group of it
that is named as one of ours adds its commands to that.
"""

from __future__ import annotations

import importlib.metadata
import sys

import grpc
import typer

from guildmesh_client.cli import chat, dead_letters, events, payloads, queues, schedules, tasks, users, webhooks
from guildmesh_client.cli.errors import CommandError, explain
from guildmesh_client.cli.output import err

_COMMANDS = "guildmesh.commands"
_GROUPS = {
    "tasks": tasks.app,
    "events": events.app,
    "schedules": schedules.app,
    "queues": queues.app,
    "dead-letters": dead_letters.app,
    "payloads": payloads.app,
    "webhooks": webhooks.app,
    "users": users.app,
}


def application() -> typer.Typer:
    """The application with all commands that are installed."""
    app = typer.Typer(
        name="guildmesh",
        help="A service mesh on which teams of AI agents work together and nothing they do is lost.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    added: dict[str, list[typer.Typer]] = {}
    for entry in importlib.metadata.entry_points(group=_COMMANDS):
        installed: typer.Typer = entry.load()
        app.add_typer(installed)
        for group in installed.registered_groups:
            if group.typer_instance is not None:
                added.setdefault(str(group.name), []).append(group.typer_instance)
    for name, own in _GROUPS.items():
        # Of two groups with one name the last is shown.
        together = typer.Typer(help=own.info.help, no_args_is_help=True)
        for part in (own, *added.get(name, ())):
            together.add_typer(part)
        app.add_typer(together, name=name)
    app.command()(chat.chat)
    return app


def main() -> None:
    """Runs the command line; ends the process with 0, or with 1 and one line on stderr."""
    try:
        application()()
    except CommandError as error:
        _fail(str(error))
    except grpc.RpcError as error:
        _fail(explain(error))
    except BrokenPipeError:
        # Such as `guildmesh tasks list | head`: whoever reads has seen enough.
        sys.stderr.close()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> None:
    err.print(message, style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(1)
