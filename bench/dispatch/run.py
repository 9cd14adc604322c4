"""Runs every prototype under every load, in turns, and tells the medians."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil

from bench.child import Child
from bench.dispatch.checker import Ran, exceeded, worst_window
from bench.dispatch.loads import MEASURED, Load
from bench.dispatch.owner import OWNED, REPLICAS, scopes_of
from bench.dispatch.schema import drop_database, engine, make_database, make_template
from bench.dispatch.watch import Watch
from bench.errors import BenchFailed
from bench.options import Options
from bench.report import percentile, tell
from services.embedded.parts.postgres import Postgres
from services.embedded.ports import free_port
from services.embedded.running import RunningPart

_REPEATS = 3
_QUICK_LOADS = 3
_FAULT_AT = 2.5
_PAUSE_SECONDS = 4.0
_WINDOW_SECONDS = 6.0
_ANSWER_SECONDS = 180
_ATTEMPTS = """
SELECT tenant_id, queue, concurrency_key, extract(epoch FROM create_time)::float8, extract(epoch FROM start_time)::float8,
  extract(epoch FROM COALESCE(finish_time, clock_timestamp()))::float8
FROM (
  SELECT tenant_id, queue, concurrency_key, create_time, start_time, finish_time FROM finished_tasks UNION ALL
  SELECT tenant_id, queue, concurrency_key, create_time, start_time, finish_time FROM dispatch_expired UNION ALL
  SELECT tenant_id, queue, concurrency_key, create_time, start_time, NULL FROM tasks WHERE state = 2
) a
"""


@dataclass(frozen=True)
class Measured:
    """What one run showed, or the medians of several."""

    per_s: float
    postgres_us: float
    """processor time of PostgreSQL for one dispatch with its completion."""
    python_us: float
    """the same of the three replicas."""
    batch: float
    """tasks that one transaction started."""
    exceeded: float
    """starts that found a limit reached, and limits exceeded in the lease table: the sum."""
    share_error: float | None = None
    small_p50_ms: float | None = None
    small_p99_ms: float | None = None
    gap_s: float | None = None
    """longest time without any start after the fault."""
    kept: float | None = None
    """rate of the last two seconds, divided by that before the fault."""
    refused: float = 0
    """transactions that their epoch refused."""
    rebuild_ms: float | None = None


def run(options: Options) -> int:
    """Measures, prints the line of JSON, gives the exit code."""
    loads = MEASURED[:_QUICK_LOADS] if options.quick else MEASURED
    found: dict[tuple[str, str], list[Measured]] = {}
    with _postgres() as server:
        templates = {load.name: make_template(server, load) for load in loads}
        for repeat in range(1 if options.quick else _REPEATS):
            for load in loads:
                names = _prototypes(load)
                # Each is first once, so that none always has the machine as another left it.
                for place in range(len(names)):
                    prototype = names[(place + repeat) % len(names)]
                    measured = measure(server, templates[load.name], load, prototype)
                    found.setdefault((load.name, prototype), []).append(measured)
                    tell(f"{load.name}, {prototype}: {_told(measured)}")
    medians = {key: _median(runs) for key, runs in found.items()}
    tell("medians:")
    for (load_name, prototype), measured in medians.items():
        tell(f"  {load_name:12} {prototype:8} {_told(measured)}")
    line = {load.name: {name: _whole(each) for (at, name), each in medians.items() if at == load.name} for load in loads}
    print(json.dumps({**line, "load_before": round(os.getloadavg()[0], 2)}), flush=True)
    return 1 if any(each.exceeded for runs in found.values() for each in runs) else 0


def _prototypes(load: Load) -> tuple[str, ...]:
    if not load.shares:
        return ("today", "race", "owner", "grants")
    # With one queue there is nothing that an owner of all could do otherwise.
    return ("race", "owner", "single", "grants") if len(load.queues) > 1 else ("race", "owner", "grants")


def measure(server: Postgres, template: str, load: Load, prototype: str) -> Measured:
    """One run of a prototype on a database of its own."""
    url = make_database(server, template, scopes_of(prototype, load))
    try:
        with ExitStack() as stack:
            replicas = [Child("bench.dispatch.replica") for _ in range(REPLICAS)]
            for replica in replicas:
                stack.callback(_end, replica)
            for number, replica in enumerate(replicas):
                replica.tell(do="open", name=f"r{number}", url=url, load=load.name, prototype=prototype)
            for replica in replicas:
                replica.answer(_ANSWER_SECONDS)
            with closing(engine(url)) as connection, connection.cursor() as cursor, Watch(url, load) as watch:
                if prototype in OWNED:
                    _wait_for_owners(cursor)
                if load.fault == "held":
                    holder = stack.enter_context(closing(engine(url)))
                    holder.autocommit = False
                    with holder.cursor() as held:
                        held.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM dispatch_queues")
                before = _processor(server, replicas)
                begun = _now(cursor)
                for replica in replicas:
                    replica.ask(_ANSWER_SECONDS, do="go")
                fault_at = _break(cursor, load, prototype, replicas)
                time.sleep(max(0.0, begun + load.seconds - _now(cursor)))
                ended = _now(cursor)
                after = _processor(server, replicas)
                live = [replica for replica in replicas if psutil.pid_exists(replica.pid) and _runs(replica)]
                answers = [replica.ask(_ANSWER_SECONDS, do="close") for replica in live]
                cursor.execute(_ATTEMPTS)
                attempts = [Ran(*row) for row in cursor.fetchall()]
            if watch.problems:
                raise BenchFailed(f"the watch ended: {watch.problems}")
    finally:
        drop_database(server, url)
    started = [ran for ran in attempts if begun <= ran.started <= ended]
    if not started:
        raise BenchFailed(f"{prototype} started nothing ({load.name})")
    used = [(late - early) / len(started) * 1e6 for early, late in zip(before, after, strict=True)]
    rebuilds = [each for answer in answers for each in answer["rebuilds"]]
    return Measured(
        per_s=len(started) / (ended - begun),
        postgres_us=used[0],
        python_us=used[1],
        batch=len(started) / max(1, sum(answer["transactions"] for answer in answers)),
        exceeded=watch.exceeded + exceeded(attempts, load.queues),
        refused=sum(answer["refused"] for answer in answers),
        rebuild_ms=max(rebuilds) * 1000 if rebuilds else None,
        **_shares(load, attempts, begun, ended),
        **_after_fault(started, begun, fault_at, ended),
    )


def _shares(load: Load, attempts: Sequence[Ran], begun: float, ended: float) -> dict[str, float]:
    if load.trickle:
        # What came before the workers did has waited for them.
        waits = [ran.started - ran.created for ran in attempts if ran.tenant == load.trickle and ran.created > begun]
        busy = {tenant: weight for tenant, weight in load.weights.items() if tenant != load.trickle}
        return {
            "share_error": worst_window(attempts, busy, begun, ended, _WINDOW_SECONDS),
            "small_p50_ms": percentile(waits, 0.5) * 1000,
            "small_p99_ms": percentile(waits, 0.99) * 1000,
        }
    return {}


def _after_fault(started: Sequence[Ran], begun: float, fault_at: float | None, ended: float) -> dict[str, float]:
    if fault_at is None:
        return {}
    times = [fault_at, *sorted(ran.started for ran in started if ran.started > fault_at), ended]
    before = sum(begun + 0.5 < ran.started < fault_at for ran in started) / (fault_at - begun - 0.5)
    after = sum(ran.started > ended - 2 for ran in started) / 2
    return {"gap_s": max(late - early for early, late in pairwise(times)), "kept": after / before}


def _break(cursor, load: Load, prototype: str, replicas: Sequence[Child]) -> float | None:  # type: ignore[no-untyped-def]
    """Kills or pauses the owner, or any replica of a race; gives the time, by the database's clock."""
    if load.fault not in ("killed", "paused"):
        return None
    time.sleep(_FAULT_AT)
    number = 0
    if prototype in OWNED:
        cursor.execute("SELECT owner FROM dispatch_owners WHERE scope = 0")
        number = int(cursor.fetchone()[0][1:])
    at = _now(cursor)
    if load.fault == "killed":
        os.kill(replicas[number].pid, signal.SIGKILL)
    else:
        os.kill(replicas[number].pid, signal.SIGSTOP)
        time.sleep(_PAUSE_SECONDS)
        os.kill(replicas[number].pid, signal.SIGCONT)
    return at


def _runs(replica: Child) -> bool:
    return bool(psutil.Process(replica.pid).status() != psutil.STATUS_ZOMBIE)


def _end(replica: Child) -> None:
    if psutil.pid_exists(replica.pid):
        os.kill(replica.pid, signal.SIGCONT)
    replica.stop()


def _wait_for_owners(cursor) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + _ANSWER_SECONDS
    while time.monotonic() < end:
        cursor.execute("SELECT count(*) FROM dispatch_owners WHERE owner IS NULL")
        if cursor.fetchone()[0] == 0:
            # Every replica has heard of every owner by then, and each has read what waits.
            time.sleep(1)
            return
        time.sleep(0.05)
    raise BenchFailed("not every scope has an owner")


def _now(cursor) -> float:  # type: ignore[no-untyped-def]
    cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
    return float(cursor.fetchone()[0])


def _processor(server: Postgres, replicas: Sequence[Child]) -> tuple[float, float]:
    """Seconds of processor time of PostgreSQL and of the replicas."""
    postmaster = next(child for child in psutil.Process().children() if child.name() == "postgres")
    postgres = 0.0
    for process in (postmaster, *postmaster.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        postgres += times.user + times.system
        if process == postmaster:
            postgres += times.children_user + times.children_system
    python = 0.0
    for replica in replicas:
        try:
            used = psutil.Process(replica.pid).cpu_times()
            python += used.user + used.system
        except psutil.Error:
            continue
    return postgres, python


def _median(runs: Sequence[Measured]) -> Measured:
    values: dict[str, float] = {}
    for name in asdict(runs[0]):
        found = [value for each in runs if (value := getattr(each, name)) is not None]
        if found:
            # A limit that was exceeded once is not made good by two runs in which it was not.
            values[name] = max(found) if name == "exceeded" else median(found)
    return Measured(**values)


def _whole(measured: Measured) -> dict[str, float]:
    return {name: round(value, 2 if value < 10 else 0) for name, value in asdict(measured).items() if value is not None}


def _told(measured: Measured) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in _whole(measured).items())


@contextmanager
def _postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="guildmesh-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if os.geteuid() == 0:
            # PostgreSQL runs under another account then, and has to pass through.
            folder.chmod(0o711)
        part = Postgres(folder / "postgres", port=free_port(), password="bench", superuser_password="bench", max_connections=100)
        running = RunningPart(part, folder / "log")
        running.start()
        try:
            yield part
        finally:
            running.stop()
