"""What is to be dispatched: queues, tenants, keys, lengths and limits."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

WEIGHTS = (5, 3, 2)
_TASKS = 24_000
LONGEST = 1.0
"""seconds; a tenth of what issue 5 names, as are the windows in which shares are looked at."""


@dataclass(frozen=True)
class Limits:
    """What a queue allows to run at once."""

    running: int | None = None
    per_key: int | None = None


@dataclass(frozen=True)
class Row:
    """A task that waits."""

    tenant: str
    queue: str
    key: str | None
    priority: int
    seconds: float


@dataclass(frozen=True)
class Load:
    """One kind of load and how it is run."""

    name: str
    seconds: float
    """that it is measured."""
    slots: int
    """tasks that the workers of one replica run at once."""
    backlog: Callable[[random.Random], Iterator[Row]]
    queues: dict[str, Limits]
    weights: dict[str, int]
    shares: bool = True
    """whether tenants have shares."""
    fault: str = ""
    """what happens to a replica: killed, paused; or that a transaction is held open."""
    topped_up: str = ""
    """a tenant whose backlog is kept at 100 tasks of the greatest length."""
    trickle: str = ""
    """a tenant that has one short task every 100 ms: the smallest."""

    @property
    def limited(self) -> bool:
        """Whether any queue limits anything."""
        return any(each != Limits() for each in self.queues.values())


def _plain(_: random.Random) -> Iterator[Row]:
    for _number in range(_TASKS):
        yield Row("only", "q0", None, 5, 0.01)


def _wide(queues: int) -> Callable[[random.Random], Iterator[Row]]:
    """1,000 tenants with ten keys each; every tenth task has one of twenty keys that many want."""

    def backlog(chance: random.Random) -> Iterator[Row]:
        for _number in range(_TASKS):
            wanted = chance.random() < 0.1
            tenant = chance.randrange(20) * 50 if wanted else chance.randrange(1000)
            key = 0 if wanted else chance.randrange(10)
            seconds = chance.choice((0.005, 0.01, 0.02, 0.045))
            yield Row(f"t{tenant}", f"q{tenant % queues}", f"t{tenant}/{key}", chance.randint(1, 10), seconds)

    return backlog


def _uneven(chance: random.Random) -> Iterator[Row]:
    """10,000 tasks of 10 ms to 1 s, 10,000 of 50 ms, 100 of 1 s."""
    for number in range(10_000):
        yield Row("a", "q0", None, 5, math.exp(chance.uniform(math.log(0.01), math.log(LONGEST))))
        yield Row("b", "q0", None, 5, 0.05)
        if number < 100:
            yield Row("c", "q0", None, 5, LONGEST)


def _three_keys(_: random.Random) -> Iterator[Row]:
    for number in range(2000):
        yield Row("t", "q0", f"k{number % 3}", 5, 0.01)


_TENANTS = {f"t{number}": WEIGHTS[number % 3] for number in range(1000)}
_ONE = {"q0": Limits(250, 2)}
_SMALL = {"q0": Limits(25, 2)}
_HUNDRED = {f"q{number}": Limits(8, 2) for number in range(100)}
_FOUR = {"a": 5, "b": 3, "c": 2, "small": 1}
# Shares and faults are measured with so few slots that these are scarce, not the processors.
MEASURED = (
    Load("plain", 3, 100, _plain, {"q0": Limits()}, {"only": 1}, shares=False),
    Load("1 queue", 3, 100, _wide(1), _ONE, _TENANTS),
    Load("100 queues", 3, 100, _wide(100), _HUNDRED, _TENANTS),
    Load("held", 8, 100, _wide(1), _ONE, _TENANTS, fault="held"),
    Load("shares", 14, 10, _uneven, {"q0": Limits(1000)}, _FOUR, topped_up="c", trickle="small"),
    Load("killed", 8, 10, _wide(1), _SMALL, _TENANTS, fault="killed"),
    Load("paused", 9, 10, _wide(1), _SMALL, _TENANTS, fault="paused"),
)
CONTENDED = Load("contended", 1.5, 20, _three_keys, {"q0": Limits(5, 2)}, {"t": 1})
"""for a test: whoever does not wait for the others exceeds a limit at once."""
LOADS = {load.name: load for load in (*MEASURED, CONTENDED)}
