"""What one may choose about a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NAMES = ("tasks", "dispatch", "fairness", "events")
PEERS = ("ours", "celery", "river")
MEASURES = ("batch", "kafka", "single", "latency", "limited")
_QUICK = 10


@dataclass(frozen=True)
class Options:
    """The choices of a run."""

    name: str
    quick: bool = False
    only: str = ""
    measures: tuple[str, ...] = MEASURES
    """what is measured of ours."""
    million: bool = True
    """whether the rate is measured again with a million finished tasks in the tables."""
    profile: Path | None = None
    tasks: int = 40_000
    """of one run in batches; a quarter of it one by one."""
    seconds: float = 15.0
    """how long one run may submit."""

    def wants(self, peer: str) -> bool:
        """Whether the peer is measured."""
        return not self.only or self.only == peer

    def sized(self, tasks: int) -> int:
        """The size of a run: a tenth of it when it must be quick, in whole batches."""
        return max(100, (tasks // _QUICK if self.quick else tasks) // 100 * 100)


def parse(arguments: Sequence[str]) -> Options:
    """The options of a command line; ends the process with a usage message when they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures the mesh beside what people use today.")
    parser.add_argument("name", choices=NAMES, help="the benchmark")
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes, for development")
    parser.add_argument("--only", choices=PEERS, default="", help="one peer, once")
    measures = "of ours, only that; may be given several times"
    parser.add_argument("--measure", dest="measures", action="append", choices=MEASURES, help=measures)
    million = "again with 1,000,000 finished tasks in the tables (default: yes in a whole run, no with --quick or --only)"
    parser.add_argument("--million", action=argparse.BooleanOptionalAction, help=million)
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="write sampled stacks there (slows the run)")
    parser.add_argument("--tasks", type=int, default=Options.tasks, help="of one run in batches (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=Options.seconds, help="that one run may submit (default %(default)s)")
    given = parser.parse_args(arguments)
    if given.million is None:
        given.million = not (given.quick or given.only)
    given.measures = tuple(given.measures or MEASURES)
    return Options(**vars(given))
