"""Processor time of the processes of a run: where the time of a task goes, and how much of the machine others had."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping

import psutil

_LEAST_SECONDS = 0.01


class ProcessorTime:
    """Seconds of processor time since the start, by name, of processes and all that they have started."""

    def __init__(self, pids: Mapping[str, int], ended: str = "") -> None:
        """Begins to count for the named processes; what our own children that end meanwhile took is told as `ended`."""
        self._pids = dict(pids)
        self._ended = ended
        self._children = _ended_children()
        self._before = {name: _seconds(pid) for name, pid in self._pids.items()}
        self._busy = _busy()
        self._begun = time.monotonic()

    def told(self, tasks: int) -> str:
        """What `tasks` tasks took since the start, most first, and the share of the machine that went elsewhere, for people."""
        used = {name: _seconds(pid) - self._before[name] for name, pid in self._pids.items()}
        if self._ended:
            used[self._ended] = _ended_children() - self._children
        # Our own process only waits, but what it does is not somebody else's.
        ours = sum(used.values())
        elsewhere = (_busy() - self._busy - ours) / (time.monotonic() - self._begun) / (os.cpu_count() or 1)
        parts = sorted((item for item in used.items() if item[1] >= _LEAST_SECONDS), key=lambda item: -item[1])
        told = ", ".join(f"{name} {value:.2f}" for name, value in parts)
        each = ours / tasks * 1e6
        return f"{each:,.0f} µs of a processor a task, in seconds: {told}; others had {max(0.0, elsewhere):.0%} of the machine"


def _ended_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _seconds(pid: int) -> float:
    total = 0.0
    try:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            times = each.cpu_times()
            # What it started and has ended already is its own, too.
            total += times.user + times.system + times.children_user + times.children_system
    except psutil.Error:
        # A process that has just ended has no time any more; the others do.
        pass
    return total


def _busy() -> float:
    """Seconds that the machine's processors were not free for us, those included that its host gave to other machines."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))
