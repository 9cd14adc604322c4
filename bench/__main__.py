"""`python -m bench NAME`."""

from __future__ import annotations

import sys

from bench.errors import BenchFailed
from bench.options import parse
from bench.report import tell
from bench.tasks import run


def main() -> int:
    """Runs a benchmark; 0 when its figures count, 1 when it failed, 3 when the machine was too busy for them."""
    options = parse(sys.argv[1:])
    try:
        return run(options)
    except BenchFailed as problem:
        tell(f"failed: {problem}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
