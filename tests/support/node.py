"""Programs of the tests that run on Node."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

from tests.support.requirements import need_program


def node_folder(folder: Path) -> str:
    """Has the packages that a folder's lock names installed in it, once; gives the program `node`."""
    node, npm = need_program("node"), need_program("npm")
    lock, installed = folder / "package-lock.json", folder / "node_modules" / ".package-lock.json"
    with (folder / "package.json").open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return node
