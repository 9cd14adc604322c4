"""Brings the schemas up to date, and makes the developer's user where one is wanted, all in one process.

`python -m services.embedded.migrate NAME… [--developer FILE]` does what `python -m services.NAME migrate` does for each
NAME, then `python -m services.identity create-user developer …` with the password in FILE. One process, because what
these commands import takes longer than what they do.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

DEVELOPER = "developer"
DEVELOPER_TENANT = "default"
_DEVELOPER_ROLES = "admin,operator"


def main() -> None:
    """The command line; ends with the first status that is not 0."""
    parser = argparse.ArgumentParser(prog="python -m services.embedded.migrate", description=__doc__)
    parser.add_argument("services", nargs="+", metavar="NAME", help="a service that has tables")
    parser.add_argument("--developer", type=Path, metavar="FILE", help="file with the developer's password")
    options = parser.parse_args()
    for name in options.services:
        _run(f"services.{name}", "migrate")
    if options.developer:
        roles = ("--tenant", DEVELOPER_TENANT, "--roles", _DEVELOPER_ROLES)
        with options.developer.open() as password:
            sys.stdin = password
            _run("services.identity", "create-user", DEVELOPER, *roles, "--if-missing")


def _run(module: str, *arguments: str) -> None:
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise


if __name__ == "__main__":
    main()
