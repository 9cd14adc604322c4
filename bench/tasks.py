"""The benchmark `tasks`: submit → lease → complete → event, ours, Celery on Redis, River on PostgreSQL, and ours again."""

from __future__ import annotations

import os

from bench.celery_peer.run import celery_rate
from bench.machine import speed
from bench.mesh import mesh
from bench.options import Options
from bench.ours import Ours, ours
from bench.report import LEAST_CELERY, Figures, tell
from bench.river_peer.run import river_rates
from bench.tenants import TENANTS

VOID = 3
"""Exit code of a run whose figures do not count."""
_LATENCY_TASKS = 200
_MILLION = 1_000_000
_MILLION_RUNS = 2
# Vacuum falls into some of these and not into others.
_LIMITED_RUNS = 5


def run(options: Options) -> int:
    """Measures, prints the line of JSON, gives the exit code."""
    figures = Figures(load_before=os.getloadavg()[0])
    tell(f"tasks: 200 B in, 100 B out; load average {figures.load_before:.2f}, {os.cpu_count()} processors")
    with mesh() as described:
        if options.wants("ours"):
            _begin("ours", figures)
            with ours(described, options.profile) as running:
                _measure(running, options, figures)
                if options.million and options.only:
                    _measure_million(running, options, figures)
        if options.wants("celery"):
            _begin("Celery on Redis", figures)
            figures.celery, figures.celery_how = celery_rate(options.sized(6_000), options.seconds)
        if options.wants("river"):
            _begin("River on PostgreSQL", figures)
            figures.river_batch, figures.river_single = river_rates(options.sized(60_000), options.sized(15_000), options.seconds)
        if not options.only:
            _begin("ours again", figures)
            with ours(described, options.profile) as running:
                _measure(running, options, figures)
                if options.million:
                    _measure_million(running, options, figures)
    print(figures.line(), flush=True)
    if figures.void:
        tell(f"void: Celery did {figures.celery:.0f}/s, under {LEAST_CELERY:.0f}/s, so the machine was not free")
        return VOID
    return 0


def _begin(peer: str, figures: Figures) -> None:
    figures.speeds.append(speed())
    tell(f"{peer} (the machine does {figures.speeds[-1]:.0f} million rounds of a plain loop a second)")


def _measure(running: Ours, options: Options, figures: Figures) -> None:
    tasks = options.sized(options.tasks)
    if "batch" in options.measures:
        figures.batch.add(running.batch(tasks, options.seconds))
    if "kafka" in options.measures:
        figures.kafka.add(running.kafka(tasks, options.seconds))
    if "single" in options.measures:
        figures.single.add(running.single(options.sized(options.tasks // 4), options.seconds))
    if "latency" in options.measures:
        figures.latencies += running.latencies(_LATENCY_TASKS, options.seconds)
        figures.watched_latencies += running.latencies(_LATENCY_TASKS, options.seconds, watched=True)
    if "limited" in options.measures:
        running.prepare_limited(options.sized(TENANTS))
        for _ in range(_LIMITED_RUNS):
            figures.limited_plain.add(running.batch(tasks, options.seconds))
            figures.limited.add(running.limited(tasks, options.seconds))


def _measure_million(running: Ours, options: Options, figures: Figures) -> None:
    """The same batches before and after, next to each other in time: what differs is only what lies in the tables."""
    tasks = options.sized(options.tasks)
    for _ in range(_MILLION_RUNS):
        figures.million_before.add(running.batch(tasks, options.seconds))
    running.preload(options.sized(_MILLION))
    for _ in range(_MILLION_RUNS):
        figures.million.add(running.batch(tasks, options.seconds))
