"""Identity service process: `python -m services.identity`, with `migrate` and `create-user` beside it."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys
from collections.abc import Sequence

from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from services.common.db.migrations import migrate
from services.common.errors import DomainError
from services.common.service import run
from services.identity.bootstrap import SCHEMA, open_ensure_user, open_service
from services.identity.domain.errors import UserAlreadyExists
from services.identity.domain.user import ROLES, NewUser
from services.identity.settings import IdentitySettings, ServingSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the service or one of its commands; gives the exit code."""
    options = _parser().parse_args(arguments)
    if options.command is None:
        run("identity", ServingSettings, open_service)
        return 0
    try:
        settings = IdentitySettings()
        if options.command == "migrate":
            migrate(settings, package="services.identity.storage.migrations", schema=SCHEMA)
            return 0
        return asyncio.run(_create_user(settings, options))
    except ValidationError as error:
        return _fail("; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()), 2)
    except DomainError as error:
        return _fail(error.message, 1)
    except DBAPIError as error:
        return _fail(f"{error.orig}; was 'python -m services.identity migrate' run on this database?", 1)


async def _create_user(settings: IdentitySettings, options: argparse.Namespace) -> int:
    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    roles = tuple(dict.fromkeys(role.strip() for role in options.roles.split(",") if role.strip()))
    user = NewUser(options.username, password, options.email, roles, options.tenant)
    async with open_ensure_user(settings) as ensure_user:
        try:
            created = await ensure_user(user)
        except UserAlreadyExists:
            if not options.if_missing:
                raise
            print(f"{user.username} exists already; left as it is")  # noqa: T201 - the command's answer
            return 0
    print(f"created {created.username} in tenant {created.tenant_id} with {', '.join(created.roles)}")  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.identity", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("migrate", help="bring the database schema to the newest revision")
    create = commands.add_parser("create-user", help="create a user; the password is the first line of standard input")
    create.add_argument("username")
    create.add_argument("--tenant", default="default", help="created when missing (default: %(default)s)")
    create.add_argument("--roles", default="user", help=f"comma-separated, of {', '.join(ROLES)} (default: %(default)s)")
    create.add_argument("--email", default="")
    create.add_argument("--if-missing", action="store_true", help="succeed when the username is taken")
    return parser


def _fail(message: str, code: int) -> int:
    print(f"identity: {message}", file=sys.stderr)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
