"""`python -m bench NAME`."""

from __future__ import annotations

import signal
import sys

from bench import event_log, fairness, tasks
from bench.dispatch import run as dispatch
from bench.errors import BenchFailed
from bench.options import parse
from bench.report import tell

_BENCHMARKS = {"tasks": tasks.run, "dispatch": dispatch.run, "fairness": fairness.run, "events": event_log.run}


def main() -> int:
    """Runs a benchmark; 0 when its figures count, 1 when it failed, 3 when the machine was too busy for them."""
    options = parse(sys.argv[1:])
    # What was started is stopped, however the run ends.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        return _BENCHMARKS[options.name](options)
    except BenchFailed as problem:
        tell(f"failed: {problem}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
