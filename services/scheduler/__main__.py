"""Scheduler service process: `python -m services.scheduler`; `migrate` as its argument brings the schema up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from services.common.db.migrations import migrate
from services.common.errors import DomainError
from services.common.service import run
from services.scheduler.bootstrap import SCHEMA, open_service
from services.scheduler.settings import SchedulerSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the service or its command; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.scheduler", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("migrate", help="bring the database schema to the newest revision")
    if parser.parse_args(arguments).command is None:
        run("scheduler", SchedulerSettings, open_service)
        return 0
    try:
        migrate(SchedulerSettings(), package="services.scheduler.storage.migrations", schema=SCHEMA)
    except ValidationError as error:
        return _fail("; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()), 2)
    except DomainError as error:
        return _fail(error.message, 1)
    return 0


def _fail(message: str, code: int) -> int:
    print(f"scheduler: {message}", file=sys.stderr)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
