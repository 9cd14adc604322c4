"""Tool service process: `python -m services.tool`, with `migrate` beside it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from services.common.db.migrations import migrate
from services.common.errors import DomainError
from services.common.service import run
from services.tool.bootstrap import SCHEMA, open_service
from services.tool.settings import ToolSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the service or one of its commands; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.tool", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("migrate", help="bring the database schema to the newest revision")
    options = parser.parse_args(arguments)
    if options.command is None:
        run("tool", ToolSettings, open_service)
        return 0
    try:
        migrate(ToolSettings(), package="services.tool.storage.migrations", schema=SCHEMA)
    except ValidationError as error:
        for problem in error.errors():
            print(f"tool: {'.'.join(map(str, problem['loc']))}: {problem['msg']}", file=sys.stderr)  # noqa: T201
        return 2
    except DomainError as error:
        print(f"tool: {error.message}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
