"""How fast the machine is just now: a virtual one changes by half while nothing of ours runs."""

from __future__ import annotations

import os
import subprocess
import sys

# Counts how often it gets round in 0.4 s of wall time; imports would be measured, too.
_LOOP = """
import time
end, rounds, value = time.perf_counter() + 0.4, 0, 0
while time.perf_counter() < end:
    for place in range(10_000):
        value += place
    rounds += 1
print(rounds * 10_000 / 0.4)
"""


def speed() -> float:
    """Million rounds of a plain Python loop a second, on each processor while all are at it: the mean of them."""
    count = os.cpu_count() or 1
    loops = [subprocess.Popen([sys.executable, "-I", "-c", _LOOP], stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return sum(float(loop.communicate()[0]) for loop in loops) / count / 1e6
