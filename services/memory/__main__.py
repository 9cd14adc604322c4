"""Memory service process: `python -m services.memory`, with `migrate` beside it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from services.common.db.migrations import migrate
from services.common.errors import DomainError
from services.common.service import run
from services.memory.bootstrap import SCHEMA, open_service
from services.memory.settings import MemorySettings, ServingSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the service or its migrations; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.memory", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("migrate", help="bring the database schema to the newest revision")
    if parser.parse_args(arguments).command is None:
        run("memory", ServingSettings, open_service)
        return 0
    try:
        migrate(MemorySettings(), package="services.memory.storage.migrations", schema=SCHEMA)
    except ValidationError as error:
        for problem in error.errors():
            print(f"memory: {'.'.join(map(str, problem['loc']))}: {problem['msg']}", file=sys.stderr)  # noqa: T201
        return 2
    except DomainError as error:
        print(f"memory: {error.message}", file=sys.stderr)  # noqa: T201 - the command's answer
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
