"""The benchmark `events`: from the commit of a change to a consumer on Kafka, at a gentle rate and, for a minute, at a high one.

Beside them, in the same run and at the same broker: a program of aiokafka that only publishes, and Kafka's own tool.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass

import psutil

from bench.child import Answer, Child
from bench.errors import BenchFailed
from bench.events import KINDS
from bench.kafka_alone import broker_rate
from bench.machine import speed
from bench.mesh import Mesh, mesh
from bench.options import Options
from bench.ours import Ours, ours
from bench.report import tell
from bench.tenants import BATCH

GENTLE_TASKS_PER_S = 500
GENTLE_SECONDS = 20
BURST = 10
"""tasks that are asked for at the same moment, by as many calls of the client library."""
HELD_EVENTS_PER_S = 16_000
HELD_SECONDS = 60
LEAST_HELD = 0.99
"""of the rate asked for, that must have been there."""
MOST_P50_MS = 20.0
MOST_LAG_SECONDS = 2.0
"""p99 of any second of the minute: the lag is bounded while it is under that."""
WATCHERS = 2_000
WATCHED_SECONDS = 20.0
_ALONE_RECORDS = 400_000
_BROKER_RECORDS = 2_000_000


@dataclass(frozen=True)
class Line:
    """The line of JSON, field by field; docs/benchmarks.md says what each means."""

    commit_to_consumer_p50_ms: float
    commit_to_consumer_p99_ms: float
    one_by_one_p50_ms: float
    one_by_one_p99_ms: float
    held_events_per_s: int
    held_p50_ms: float
    held_worst_second_p99_ms: float
    held_drain_ms: float
    aiokafka_per_s: int
    broker_per_s: int
    held_vs_aiokafka: float
    record_bytes: int
    watchers: int
    watchers_p50_ms: float
    watchers_p99_ms: float
    watchers_mib: int
    speed: float
    load_before: float


def run(options: Options) -> int:
    """Measures, prints the line of JSON, gives the exit code: 1 when a figure is not as it must be."""
    load, machine = os.getloadavg()[0], speed()
    tell(f"events: load average {load:.2f}, the machine does {machine:.0f} million rounds of a plain loop a second")
    seconds = HELD_SECONDS // 6 if options.quick else HELD_SECONDS
    with mesh() as described, ours(described, options.profile) as running:
        reader = Child("bench.event_reader", described.kafka)
        try:
            gentle, single, held = _measure(running, reader, seconds)
        finally:
            reader.stop()
        watched = _watchers(running, WATCHERS // 10 if options.quick else WATCHERS)
        alone, broker = _references(described, int(held["bytes"]), 10 if options.quick else 1)
    rate, worst, drain = _rate(held, seconds), max(second[3] for second in held["seconds"]), held["at"] - held["ended"]
    line = Line(
        commit_to_consumer_p50_ms=round(gentle["p50"] * 1000, 1),
        commit_to_consumer_p99_ms=round(gentle["p99"] * 1000, 1),
        one_by_one_p50_ms=round(single["p50"] * 1000, 1),
        one_by_one_p99_ms=round(single["p99"] * 1000, 1),
        held_events_per_s=round(rate),
        held_p50_ms=round(held["p50"] * 1000, 1),
        held_worst_second_p99_ms=round(worst * 1000, 1),
        held_drain_ms=round(drain * 1000, 1),
        aiokafka_per_s=round(alone),
        broker_per_s=round(broker),
        held_vs_aiokafka=round(rate / alone, 2),
        record_bytes=int(held["bytes"]),
        watchers=int(watched["watchers"]),
        watchers_p50_ms=round(watched["p50"] * 1000, 1),
        watchers_p99_ms=round(watched["p99"] * 1000, 1),
        watchers_mib=round(watched["megabytes"]),
        speed=round(machine, 1),
        load_before=round(load, 2),
    )
    print(json.dumps(asdict(line)), flush=True)
    good = line.commit_to_consumer_p50_ms <= MOST_P50_MS and rate >= LEAST_HELD * HELD_EVENTS_PER_S and worst <= MOST_LAG_SECONDS
    return 0 if good else 1


def _measure(running: Ours, reader: Child, seconds: int) -> tuple[Answer, Answer, Answer]:
    tasks = GENTLE_TASKS_PER_S * GENTLE_SECONDS
    gentle = running.paced(f"{GENTLE_TASKS_PER_S} tasks/s, {BURST} at once", reader, tasks, GENTLE_TASKS_PER_S, BURST)
    single = running.paced(f"{GENTLE_TASKS_PER_S} tasks/s, one by one", reader, tasks, GENTLE_TASKS_PER_S, 1)
    # A whole batch more, so that the rate is not a little under what is asked for.
    rate = HELD_EVENTS_PER_S / len(KINDS) * 1.01
    tasks = int(rate * seconds) // 100 * 100
    held = running.paced(f"{HELD_EVENTS_PER_S:,} events/s", reader, tasks, rate, BATCH)
    for second, events, p50, p99 in held["seconds"]:
        tell(f"    second {second}: {events:,} events, p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms")
    return gentle, single, held


def _watchers(running: Ours, watchers: int) -> Answer:
    environment = {**os.environ, "GUILDMESH_TOKEN": running.mesh.token}
    child = Child("bench.watchers", running.mesh.target, environment=environment)
    scheduler = psutil.Process(running.parts["scheduler"])
    try:
        before = scheduler.memory_info().rss
        child.tell(watchers=watchers, seconds=WATCHED_SECONDS)
        time.sleep(WATCHED_SECONDS / 2)
        during = scheduler.memory_info().rss
        told = child.answer(10 * WATCHED_SECONDS)
    finally:
        child.stop()
    if not told["exact"]:
        raise BenchFailed(f"not every one of {watchers:,} watchers had each event of its task")
    megabytes = (during - before) / 2**20
    tell(
        f"  {watchers:,} watchers: p50 {told['p50'] * 1000:.1f} ms, p99 {told['p99'] * 1000:.1f} ms from commit to watcher;"
        f" the scheduler grew by {megabytes:.0f} MiB"
    )
    return {**told, "megabytes": megabytes}


def _rate(held: Answer, seconds: int) -> float:
    """Events that the consumer had, by the seconds from the first submit until the last of them."""
    return int(held["records"]) / max(float(seconds), float(held["at"]) - float(held["begun"]))


def _references(described: Mesh, size: int, share: int) -> tuple[float, float]:
    program = Child("bench.kafka_alone", described.kafka)
    try:
        program.ask(30, do="topic")
        alone = float(program.ask(120, do="produce", records=_ALONE_RECORDS // share, size=size)["rate"])
        tell(f"  aiokafka alone: {alone:,.0f} records/s of {size} B")
    finally:
        program.stop()
    broker = broker_rate(described.kafka, size, _BROKER_RECORDS // share)
    tell(f"  Kafka's own kafka-producer-perf-test: {broker:,.0f} records/s of {size} B")
    return alone, broker
