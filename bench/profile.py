"""Sampled stacks of the Python processes of a run, by py-spy, which needs nothing of them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.errors import BenchFailed
from bench.report import tell

_RATE = 200
_LONGEST_SECONDS = 600


@contextmanager
def profile(folder: Path | None, name: str, pids: Mapping[str, int]) -> Iterator[None]:
    """Samples the named processes while the body runs and writes a file for each to the folder; None does nothing."""
    if folder is None:
        yield
        return
    program = Path(sys.executable).parent / "py-spy"
    if not program.exists():
        raise BenchFailed("py-spy is not installed: `make bench` installs it")
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(file.name[:2]) for file in folder.glob("[0-9][0-9]-*.folded")), default=0)
    spies = {}
    for process, pid in pids.items():
        target = folder / f"{number:02}-{name}-{process}.folded"
        options = ("--format", "raw", "--rate", str(_RATE), "--duration", str(_LONGEST_SECONDS), "--nonblocking")
        arguments = [str(program), "record", "--pid", str(pid), "--output", str(target), *options]
        spies[target] = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        for spy in spies.values():
            # It writes what it has when it is interrupted.
            spy.send_signal(signal.SIGINT)
        for target, spy in spies.items():
            spy.wait(60)
            if target.exists():
                tell(f"  {target}")
                for line in hottest(target.read_text().splitlines()):
                    tell(f"    {line}")


def hottest(folded: list[str], most: int = 5) -> list[str]:
    """The functions that most samples ended in, each with its share of all samples."""
    own: Counter[str] = Counter()
    for line in folded:
        stack, _, samples = line.rpartition(" ")
        if stack and samples.isdigit():
            own[stack.rsplit(";", 1)[-1]] += int(samples)
    total = sum(own.values())
    return [f"{count / total:5.1%} {name}" for name, count in own.most_common(most)]
