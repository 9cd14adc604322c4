"""Builds the workers of examples/workers in other languages."""

from __future__ import annotations

import fcntl
import os
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.support.requirements import need_program

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "workers"


def run_build(command: list[str], folder: Path, **environment: str) -> None:
    """Runs the command of a build in a folder, which must succeed."""
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}\n{done.stderr}"


def _build_go(folder: Path) -> list[str]:
    program = folder / "worker"
    run_build([need_program("go"), "build", "-o", str(program), "."], EXAMPLES / "go", GOFLAGS="-mod=readonly")
    return [str(program)]


def _build_typescript(folder: Path) -> list[str]:
    node, npm = need_program("node"), need_program("npm")
    source = EXAMPLES / "typescript"
    # It is built where its source lies, once a run of the suite: its processes may not write what another reads.
    run, built = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex), source / "node_modules" / ".built-by"
    with (source / "package.json").open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        # npm ci would empty node_modules each time; a second run of the suite needs no registry.
        if not (source / "node_modules" / ".package-lock.json").exists():
            run_build([npm, "ci", "--no-audit", "--no-fund"], source)
        if not built.exists() or built.read_text() != run:
            run_build([npm, "run", "build"], source)
            built.write_text(run)
    return [node, str(source / "dist" / "worker.js")]


BUILDS: dict[str, Callable[[Path], list[str]]] = {"go": _build_go, "typescript": _build_typescript}
"""Builds the worker of a language in a folder; gives the command that runs it."""
