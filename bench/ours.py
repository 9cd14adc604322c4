"""The mesh under load: a client and a worker at the gateway's port, everything on that a user has on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import payload
from bench.child import Answer, Child
from bench.errors import BenchFailed
from bench.mesh import Mesh
from bench.processors import ProcessorTime
from bench.profile import profile
from bench.report import percentile, tell
from bench.tables import Tables, tables
from bench.tenants import MAX_RUNNING, QUEUES

_WARM_UP_TASKS = 2_000
_QUIET_SECONDS = 60.0


@dataclass
class Ours:
    """A mesh that runs, with its client, its worker and who looks at what they did."""

    mesh: Mesh
    tables: Tables
    client: Child
    worker: Child
    events: Child
    profile_folder: Path | None
    worker_of_all: Child | None = None
    parts: dict[str, int] = field(default_factory=dict)
    """the mesh's processes, by part."""

    def warm_up(self) -> None:
        """Lets connections, statement caches and compilers get ready."""
        folder, self.profile_folder = self.profile_folder, None
        self._run("warm-up", "single", _WARM_UP_TASKS // 10, 10.0)
        self._run("warm-up", "batch", _WARM_UP_TASKS, 10.0)
        self.profile_folder = folder

    def batch(self, tasks: int, seconds: float) -> float:
        """Tasks per second in batches, from the first submit to the last completion."""
        return self._run("batches of 100, to the last completion", "batch", tasks, seconds)

    def single(self, tasks: int, seconds: float) -> float:
        """Tasks per second with one task a call, from the first submit to the last completion."""
        return self._run("one task a call, 100 in flight", "single", tasks, seconds)

    def kafka(self, tasks: int, seconds: float) -> float:
        """Tasks per second in batches, from the first submit to the last event on Kafka."""
        self.tables.wait_quiet(_QUIET_SECONDS)
        self.events.ask(30, do="begin")
        self.worker.ask(10, do="clear")
        with self._watched("kafka", self.worker) as used:
            submitted = self.client.ask(seconds + 60, do="batch", tasks=tasks, seconds=seconds)
            ids = submitted["ids"]
            waiting = 4 * seconds + 60
            seen = self.events.ask(waiting + 10, do="expect", tasks=len(ids), seconds=waiting)
            spent = used.told(len(ids))
        self._check(ids, self.worker)
        if not seen["exact"]:
            raise BenchFailed(f"{len(ids):,} tasks gave {seen['records']:,} records of {seen['tasks']:,} tasks on Kafka")
        return _told("batches of 100, to the last event on Kafka", len(ids), float(seen["at"]), submitted, spent)

    def paced(self, title: str, reader: Child, tasks: int, rate: float, at_once: int) -> Answer:
        """Submits at a rate, and gives what the reader of the events topic tells about it, with the moments of submitting.

        Raises:
            BenchFailed: a task was not completed once, or its events were not each on Kafka once.
        """
        self.tables.wait_quiet(_QUIET_SECONDS)
        reader.ask(30, do="begin")
        self.worker.ask(10, do="clear")
        waiting = 3 * tasks / rate + 60
        with self._watched(title, self.worker) as used:
            submitted = self.client.ask(waiting, do="paced", tasks=tasks, seconds=0, rate=rate, at_once=at_once)
            ids = submitted.pop("ids")
            told = reader.ask(waiting + 10, do="expect", tasks=len(ids), seconds=waiting)
            spent = used.told(len(ids))
        self._check(ids, self.worker)
        if not told["exact"]:
            raise BenchFailed(f"{len(ids):,} tasks gave {told['records']:,} records on Kafka, not each of the three events once")
        p50, p99 = (told[share] * 1000 for share in ("p50", "p99"))
        tell(f"  {title}: p50 {p50:.1f} ms, p99 {p99:.1f} ms from commit to consumer ({len(ids):,} tasks)")
        tell(f"    {spent}")
        return {**told, **submitted}

    def prepare_limited(self, tenants: int) -> None:
        """Makes tenants, and queues with limits, and starts a worker of all tenants."""
        begun = time.monotonic()
        self.client.ask(300, do="tenants", tasks=tenants, seconds=0)
        self.worker_of_all = Child("bench.worker", self.mesh.scheduler, str(self.mesh.agent_certificate))
        tell(f"  {QUEUES} queues with limits, {tenants:,} tenants with a user each (made in {time.monotonic() - begun:.0f} s)")
        folder, self.profile_folder = self.profile_folder, None
        self.limited(_WARM_UP_TASKS, 10.0)
        self.profile_folder = folder

    def limited(self, tasks: int, seconds: float) -> float:
        """Tasks per second in batches of many tenants, to queues with limits, from the first submit to the last completion.

        Raises:
            BenchFailed: there was not one completion of each, or a queue had more at once than its limit.
        """
        assert self.worker_of_all is not None
        rate = self._run(
            "batches of 100 to queues with limits, to the last completion", "limited", tasks, seconds, self.worker_of_all
        )
        most = self.tables.most_at_once(payload.KIND_OF_ALL)
        if most > MAX_RUNNING:
            raise BenchFailed(f"{most} tasks ran at once in a queue that allows {MAX_RUNNING}")
        tell(f"    at most {most} tasks of a queue ran at once, of {MAX_RUNNING} that may")
        return rate

    def latencies(self, tasks: int, seconds: float, *, watched: bool = False) -> list[float]:
        """Seconds from submit to result of one task after the other, while nothing else runs.

        By one call that gives the result, or with `watched` by one that creates the task and one that watches it.
        """
        self.tables.wait_quiet(_QUIET_SECONDS)
        do = "latency_watched" if watched else "latency"
        taken: list[float] = self.client.ask(seconds + 60, do=do, tasks=tasks, seconds=seconds)["seconds"]
        p50, p95 = (percentile(taken, share) * 1000 for share in (0.50, 0.95))
        how = "create, then watch" if watched else "one call"
        tell(f"  submit to result, idle, {how}: p50 {p50:.2f} ms, p95 {p95:.2f} ms ({len(taken)} tasks)")
        return taken

    def preload(self, rows: int) -> None:
        """Puts finished tasks into the tables."""
        self.tables.wait_quiet(_QUIET_SECONDS)
        begun = time.monotonic()
        self.tables.preload(rows)
        tell(f"  {self.tables.finished():,} finished tasks are there (in {time.monotonic() - begun:.0f} s)")

    def stop_worker_of_all(self) -> None:
        """Stops that worker, if it was started."""
        if self.worker_of_all is not None:
            self.worker_of_all.stop()

    def _run(self, title: str, how: str, tasks: int, seconds: float, worker: Child | None = None) -> float:
        worker = worker or self.worker
        self.tables.wait_quiet(_QUIET_SECONDS)
        worker.ask(10, do="clear")
        with self._watched(how, worker) as used:
            submitted = self.client.ask(seconds + 60, do=how, tasks=tasks, seconds=seconds)
            ids = submitted["ids"]
            waiting = 4 * seconds + 60
            # The tables are not asked before the worker has called the function for each task.
            worker.ask(waiting + 10, do="expect", calls=len(ids), seconds=waiting)
            ended = self.tables.wait_completed(_QUIET_SECONDS)
            spent = used.told(len(ids))
        self._check(ids, worker)
        return _told(title, len(ids), ended, submitted, spent)

    def _check(self, ids: list[str], worker: Child) -> None:
        self.tables.wait_completed(_QUIET_SECONDS)
        self.tables.require_completed_once(ids)
        count = worker.ask(30, do="count")
        if count["calls"] != len(ids) or count["distinct"] != len(ids):
            raise BenchFailed(f"{len(ids):,} tasks made {count['calls']:,} calls for {count['distinct']:,} tasks")

    @contextmanager
    def _watched(self, name: str, worker: Child) -> Iterator[ProcessorTime]:
        loads = {"client": self.client.pid, "our worker": worker.pid, "reader": self.events.pid}
        sampled = {name: self.parts[name] for name in ("scheduler", "relay")} | {
            "client": self.client.pid,
            "worker": worker.pid,
        }
        used = ProcessorTime({**self.parts, **loads})
        with profile(self.profile_folder, name, sampled):
            yield used


def _told(title: str, tasks: int, ended: float, submitted: Answer, spent: str) -> float:
    begun = float(submitted["begun"])
    taken, submitting = ended - begun, float(submitted["ended"]) - begun
    tell(f"  {title}: {tasks / taken:,.0f}/s ({tasks:,} tasks in {taken:.2f} s, submitted in {submitting:.2f} s)")
    tell(f"    {spent}")
    return tasks / taken


@contextmanager
def ours(mesh: Mesh, profile_folder: Path | None) -> Iterator[Ours]:
    """Starts the mesh and what loads it; stops both at the end, so that a peer has the machine alone."""
    tell("  starting the mesh")
    mesh.up()
    with ExitStack() as stack:
        stack.callback(mesh.down)
        seen = stack.enter_context(tables(mesh.database_url, mesh.superuser_url))
        environment = {**os.environ, "GUILDMESH_TOKEN": mesh.token}
        client = Child("bench.client", mesh.target, environment=environment)
        stack.callback(client.stop)
        worker = Child("bench.worker", mesh.target, environment=environment)
        stack.callback(worker.stop)
        events = Child("bench.events", mesh.kafka)
        stack.callback(events.stop)
        running = Ours(mesh, seen, client, worker, events, profile_folder, parts=mesh.pids())
        stack.callback(running.stop_worker_of_all)
        running.warm_up()
        yield running
