"""River's rates, by a program in Go that is built when Go is there."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.errors import BenchFailed
from bench.processors import ProcessorTime
from bench.report import tell
from services.embedded.parts.postgres import Postgres
from services.embedded.ports import free_port
from services.embedded.running import RunningPart

_SOURCE = Path(__file__).parent
_PROGRAM = _SOURCE.parents[1] / ".cache" / "bench" / "river"
_BUILD_SECONDS = 600
_CONNECTIONS = 100


def river_rates(batch_tasks: int, single_tasks: int, seconds: float) -> tuple[float | None, float | None]:
    """Tasks per second in batches of 100 and one by one, to the last completion; None for both without Go.

    Raises:
        BenchFailed: it does not build, or did not do what it was asked.
    """
    go = shutil.which("go")
    if go is None:
        tell("  skipped: Go is not installed")
        return None, None
    _build(go)
    with _postgres() as url:
        return _rate(url, "batch", batch_tasks, seconds), _rate(url, "single", single_tasks, seconds)


def _build(go: str) -> None:
    _PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [go, "build", "-o", str(_PROGRAM), "."], cwd=_SOURCE, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
    )
    if done.returncode:
        raise BenchFailed(f"River's program does not build: {done.stderr[-2000:]}")


def _rate(url: str, how: str, tasks: int, seconds: float) -> float:
    arguments = [str(_PROGRAM), "-how", how, "-tasks", str(tasks), "-seconds", f"{seconds:g}"]
    # The address holds a password, and arguments are seen by everyone on the machine.
    environment = {**os.environ, "DATABASE_URL": url}
    servers = {child.name(): child.pid for child in psutil.Process().children()}
    used = ProcessorTime(servers, ended="River's program")
    try:
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=5 * seconds + 120, check=False)
    except subprocess.TimeoutExpired:
        raise BenchFailed(f"River's program did not end ({how})") from None
    if done.returncode:
        raise BenchFailed(f"River's program: {done.stderr[-2000:]}")
    answer = json.loads(done.stdout)
    rate = float(answer["tasks"] / answer["seconds"])
    tasks_in = f"{answer['tasks']:,} tasks in {answer['seconds']:.2f} s, submitted in {answer['submitted']:.2f} s"
    tell(f"  {how}: {rate:,.0f}/s ({tasks_in})")
    tell(f"    {used.told(answer['tasks'])}")
    return rate


@contextmanager
def _postgres() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="guildmesh-bench-"))
    if os.geteuid() == 0:
        # PostgreSQL runs under another account then, and has to pass through.
        folder.chmod(0o711)
    try:
        part = Postgres(
            folder / "postgres",
            port=free_port(),
            password=secrets.token_urlsafe(12),
            superuser_password=secrets.token_urlsafe(12),
            max_connections=_CONNECTIONS,
        )
        running = RunningPart(part, folder / "log")
        running.start()
        try:
            yield part.url
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
