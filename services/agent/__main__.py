"""Agent api: `python -m services.agent`, with `migrate` beside it. API_WORKERS processes serve the one port."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from services.agent.bootstrap import SCHEMA, open_service
from services.agent.server.child import end_with_parent
from services.agent.server.supervisor import supervise
from services.agent.settings import AgentSettings
from services.common.db.migrations import migrate
from services.common.errors import DomainError
from services.common.service import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the api or the migrations; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.agent", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("migrate", help="bring the database schema to the newest revision")
    options = parser.parse_args(arguments)
    end_with_parent()
    try:
        settings = AgentSettings()
        if options.command == "migrate":
            migrate(settings, package="services.agent.storage.migrations", schema=SCHEMA)
            return 0
    except ValidationError as error:
        for problem in error.errors():
            print(f"agent: {'.'.join(map(str, problem['loc']))}: {problem['msg']}", file=sys.stderr)  # noqa: T201
        return 2
    except DomainError as error:
        print(f"agent: {error.message}", file=sys.stderr)  # noqa: T201
        return 1
    if settings.api_workers > 1:
        return supervise(settings)
    run("agent", AgentSettings, open_service)
    return 0


if __name__ == "__main__":
    sys.exit(main())
