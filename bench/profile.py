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
# What a sample is counted as, by the beginning of the file that it was taken in.
_PARTS = (
    ("services/common/validation", "validation"),
    ("services/common/rules", "validation"),
    ("protovalidate/", "validation"),
    ("asyncpg/", "driver of PostgreSQL"),
    ("services/common/db/", "driver of PostgreSQL"),
    ("services/scheduler/storage/", "events, statements and outbox"),
    ("services/scheduler/server/", "conversion of messages"),
    ("services/scheduler/usecases/", "dispatch, gathering, wake-ups"),
    ("services/scheduler/domain/", "dispatch, gathering, wake-ups"),
    ("services/common/grpcx/", "interceptors, log, metrics"),
    ("services/common/telemetry/", "interceptors, log, metrics"),
    ("structlog/", "interceptors, log, metrics"),
    ("logging/", "interceptors, log, metrics"),
    ("prometheus_client/", "interceptors, log, metrics"),
    ("aiokafka/", "Kafka's protocol"),
    ("services/scheduler/relay/", "relay"),
    ("guildmesh_client/", "worker and client library"),
    ("bench/", "the user's code"),
)


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
                folded = target.read_text().splitlines()
                tell("    " + ", ".join(f"{part} {share:.0%}" for part, share in where(folded)))
                for line in hottest(folded):
                    tell(f"    {line}")


def where(folded: list[str]) -> list[tuple[str, float]]:
    """The share of each part of the work, most first: what the innermost function belongs to that is of a part."""
    spent: Counter[str] = Counter()
    for line in folded:
        stack, _, samples = line.rpartition(" ")
        if not stack or not samples.isdigit():
            continue
        # A frame is "function (file:line)".
        files = (frame.rpartition("(")[2] for frame in reversed(stack.split(";")))
        parts = (part for file in files for start, part in _PARTS if file.startswith(start))
        spent[next(parts, "gRPC and event loop")] += int(samples)
    total = sum(spent.values())
    return [(part, count / total) for part, count in spent.most_common()]


def hottest(folded: list[str], most: int = 5) -> list[str]:
    """The functions that most samples ended in, each with its share of all samples."""
    own: Counter[str] = Counter()
    for line in folded:
        stack, _, samples = line.rpartition(" ")
        if stack and samples.isdigit():
            own[stack.rsplit(";", 1)[-1]] += int(samples)
    total = sum(own.values())
    return [f"{count / total:5.1%} {name}" for name, count in own.most_common(most)]
