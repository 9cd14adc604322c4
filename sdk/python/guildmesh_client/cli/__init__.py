"""The command line `guildmesh`: what a client does, and what the installed server distribution adds.

A distribution adds commands by an entry point in the group `guildmesh.commands` that names a typer application.
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


def application() -> typer.Typer:
    """The application with all commands that are installed."""
    app = typer.Typer(
        name="guildmesh",
        help="A service mesh on which teams of AI agents work together and nothing they do is lost.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for entry in importlib.metadata.entry_points(group=_COMMANDS):
        app.add_typer(entry.load())
    app.add_typer(tasks.app, name="tasks")
    app.add_typer(events.app, name="events")
    app.add_typer(schedules.app, name="schedules")
    app.add_typer(queues.app, name="queues")
    app.add_typer(dead_letters.app, name="dead-letters")
    app.add_typer(payloads.app, name="payloads")
    app.add_typer(webhooks.app, name="webhooks")
    app.add_typer(users.app, name="users")
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
