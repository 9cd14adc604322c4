"""The full fault suites: `make faults`, or `python -m tests.faults.run`.

Long, and resumable: what was found good for this state of the tree is not run again. Every run's seed is in the report, so that
it can be run once more by itself: `--only "failpoints scheduler.create.before_commit crash" --seed 7`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import tempfile
import time
import traceback
import uuid
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.failpoints import POINTS
from services.embedded.parts.postgres import Postgres
from services.embedded.running import RunningPart
from tests.faults import bad, cells, failpoints, suites
from tests.faults.channels.scene import channels
from tests.faults.cluster import ROOT, Cluster, Shape, running_cluster
from tests.faults.outcome import Outcome
from tests.faults.scenes import SCENES
from tests.faults.servers import Servers, servers_of
from tests.support.mesh import running_mesh
from tests.support.servers import running_kafka, running_postgres, server_folder

DEFAULT_REPORT = ROOT / ".cache" / "faults"
SUITES = ("kills", "pauses", "silence", "away", "channels", "failpoints", "cells", "known bad")
# After so many rounds a cluster is thrown away: its tables, topics and logs have grown.
_ROUNDS_A_CLUSTER = 120


@dataclass(frozen=True)
class Job:
    """One run."""

    suite: str
    cell: str
    seed: int
    run: Callable[[Bench], Awaitable[Outcome]]

    @property
    def key(self) -> str:
        """Its name in the report."""
        return f"{self.suite} {self.cell} #{self.seed}"


class SharedServers:
    """One PostgreSQL and one Kafka for everything that restarts neither; started when they are needed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._servers: tuple[RunningPart, RunningPart] | None = None

    def __enter__(self) -> SharedServers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def database(self) -> Servers:
        """The servers, with a database of one's own."""
        if self._servers is None:
            postgres, kafka = running_postgres(), running_kafka()
            self._servers = (self._stack.enter_context(postgres), self._stack.enter_context(kafka))
        servers = servers_of(*self._servers)
        assert isinstance(self._servers[0].part, Postgres)
        servers.database_url = self._servers[0].part.create_database(f"faults_{uuid.uuid4().hex[:12]}")
        return servers


class Bench:
    """Where jobs run one after the other: a cluster that they may share."""

    def __init__(self, shared: SharedServers) -> None:
        self._shared = shared
        self._cluster: Cluster | None = None
        self._clusters = AsyncExitStack()
        self._used = 0

    async def __aenter__(self) -> Bench:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._clusters.aclose()

    def folder(self) -> Path:
        """A new folder for one run; it stays, for whoever wants to read its logs."""
        folder = Path(tempfile.mkdtemp(prefix="guildmesh-faults-"))
        (folder / "tls").mkdir()
        return folder

    def servers(self) -> Servers:
        """The shared servers, with a database of one's own."""
        return self._shared.database()

    async def cluster(self) -> Cluster:
        """The shared cluster, whose times are short."""
        if self._cluster is None or self._used >= _ROUNDS_A_CLUSTER:
            await self.forget()
            opened = running_cluster(self.folder(), self.servers(), failpoints.SHAPE)
            self._cluster = await self._clusters.enter_async_context(opened)
            self._used = 0
        self._used += 1
        return self._cluster

    async def forget(self) -> None:
        """Throws the shared cluster away: something was wrong with it, or it has grown."""
        self._cluster = None
        await self._clusters.aclose()


def jobs(seeds: int) -> Iterator[Job]:
    """All runs, the seeds of each counted from 1."""
    for seed in range(1, max(2, seeds // 10) + 1):
        shape = Shape(schedulers=3, relays=2, workers=5, seed=seed, limited=0.15)

        async def kills(bench: Bench, seed: int = seed, shape: Shape = shape) -> Outcome:
            async with suites.own_cluster(bench.folder(), shape) as cluster:
                return await suites.kills_here(cluster, tasks=20_000, seconds=60, postgres=2, kafka=1)

        async def pauses(bench: Bench, seed: int = seed) -> Outcome:
            shape = Shape(schedulers=2, relays=2, workers=3, seed=seed, limited=0.15)
            async with suites.own_cluster(bench.folder(), shape) as cluster:
                return await suites.pauses_here(cluster, tasks=8_000, times=20)

        async def scheduler_pauses(bench: Bench, seed: int = seed) -> Outcome:
            shape = Shape(schedulers=2, relays=1, workers=3, lease_seconds=2.0, seed=seed, limited=0.3)
            async with running_cluster(bench.folder(), bench.servers(), shape) as cluster:
                return await suites.pauses_here(cluster, tasks=4_000, times=20, role="scheduler")

        async def silence(bench: Bench, seed: int = seed) -> Outcome:
            # One worker: wherever its stream is, a turn of the schedulers takes it from there.
            shape = Shape(schedulers=2, relays=1, workers=1, lease_seconds=6.0, seed=seed, limited=0.3)
            async with running_cluster(bench.folder(), bench.servers(), shape) as cluster:
                return await suites.silence_here(cluster, tasks=40, times=6)

        yield Job("kills", "20,000 tasks", seed, kills)
        yield Job("pauses", "20 pauses of a relay", seed, pauses)
        yield Job("pauses", "20 pauses of a scheduler", seed, scheduler_pauses)

        async def gone(bench: Bench, seed: int = seed) -> Outcome:
            async with suites.own_cluster(bench.folder(), Shape(schedulers=2, relays=2, workers=3, seed=seed)) as cluster:
                return await suites.kafka_away_here(cluster, tasks=8_000, seconds=120, paused=False)

        async def still(bench: Bench, seed: int = seed) -> Outcome:
            async with suites.own_cluster(bench.folder(), Shape(schedulers=2, relays=2, workers=3, seed=seed)) as cluster:
                return await suites.kafka_away_here(cluster, tasks=8_000, seconds=120, paused=True)

        yield Job("silence", "6 silences", seed, silence)
        yield Job("away", "Kafka is gone for 120 s", seed, gone)
        yield Job("away", "Kafka stands still for 120 s", seed, still)

        async def all_channels(bench: Bench, seed: int = seed) -> Outcome:
            with server_folder("mesh") as folder, running_mesh(folder) as mesh:
                size = {"tasks": 200, "steps": 320, "kills": 20, "least_events": 500}
                return await channels(mesh, bench.folder(), **size, patience=300.0, seed=seed)

        yield Job("channels", "200 tasks with 500 events, 20 kills", seed, all_channels)
    for name in cells.CELLS:

        async def cell(bench: Bench, name: str = name) -> Outcome:
            return await cells.cell(bench.folder(), name, 1, window=10.0, twin=bench.folder())

        yield Job("cells", name, 1, cell)
    for caught_by, patch in [(patch.caught_by, patch) for patch in bad.known_bad()] + [
        (scene, None) for scene in (bad.LIFE, *SCENES)
    ]:

        async def known_bad(bench: Bench, caught_by: str = caught_by, patch: Any = patch) -> Outcome:
            return await bad.caught(bench.folder(), bench.servers(), caught_by, patch, 1)

        yield Job("known bad", f"{patch.name if patch else 'nothing spoilt'} by {caught_by}", 1, known_bad)
    for seed in range(1, seeds + 1):
        for name in POINTS:
            for action in failpoints.ACTIONS:

                async def failpoint(bench: Bench, name: str = name, action: str = action, seed: int = seed) -> Outcome:
                    outcome = await failpoints.failpoint(await bench.cluster(), name, action, seed)
                    if not outcome.good:
                        await bench.forget()
                    return outcome

                yield Job("failpoints", f"{name} {action}", seed, failpoint)


class Report:
    """What was found so far. Each run is one more line of JSON; the last one of a job counts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "report.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self._found: dict[str, dict[str, Any]] = {entry["job"]: entry for entry in map(json.loads, lines)}
        self._tree = tree_digest()

    def done(self, job: Job) -> bool:
        """Whether a job was found good for this tree."""
        entry = self._found.get(job.key)
        return entry is not None and bool(entry["good"]) and entry["tree"] == self._tree

    def add(self, job: Job, outcome: Outcome) -> None:
        """Keeps an outcome."""
        now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        entry = self._found[job.key] = {"job": job.key, **outcome.as_dict(), "tree": self._tree, "time": now}
        with self._file.open("a") as file:
            file.write(json.dumps(entry, separators=(",", ":")) + "\n")

    def write_table(self) -> str:
        """Writes report.md, and gives its text."""
        text = self.table()
        (self._folder / "report.md").write_text(text)
        return text

    def table(self) -> str:
        """One line a cell, its seeds together."""
        lines = ["| suite | cell | runs | good | tasks | events | operations | told |", "|---|---|--:|--:|--:|--:|--:|---|"]
        cells_of: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for key, entry in self._found.items():
            cells_of[entry["suite"], key.removeprefix(entry["suite"] + " ").rpartition(" #")[0]].append(entry)
        for (suite, cell), entries in sorted(cells_of.items()):
            sums = [sum(entry["size"].get(name, 0) for entry in entries) for name in ("tasks", "events", "operations")]
            wrong = [problem for entry in entries for problem in entry["problems"]]
            shown = ("before", "during", "after", "alone", "stop_seconds", "killed", "noticed")
            figures = {name: value for name, value in entries[-1]["figures"].items() if name in shown and suite != "failpoints"}
            text = " ".join((wrong[0] if wrong else json.dumps(figures) if figures else "").split())[:160].replace("|", "/")
            good = sum(entry["good"] for entry in entries)
            counts = " | ".join(f"{number:,}" for number in sums)
            lines.append(f"| {suite} | {cell} | {len(entries)} | {good} | {counts} | {text} |")
        return "\n".join(lines) + "\n"


def tree_digest() -> str:
    """What the outcome depends on: the code of the services, of the client and of these suites."""
    digest = hashlib.sha256()
    for folder in ("services", "sdk/python/guildmesh_client", "gen/python", "tests/faults"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".patch"):
                digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


class Runner:
    """Runs what is not yet good, and reports it."""

    def __init__(self, wanted: Sequence[Job], report: Report, at_once: int) -> None:
        self._report = report
        self._at_once = at_once
        self._all = len(wanted)
        self._left = [job for job in wanted if not report.done(job)]
        self._done = self._all - len(self._left)
        self._wrong = 0

    async def run(self) -> int:
        """Runs everything; the number of bad ones."""
        # Failpoints wait more than they work, so that several clusters share the machine; the rest need it for themselves.
        alone = [job for job in self._left if job.suite != "failpoints"]
        rounds = deque(job for job in self._left if job.suite == "failpoints")
        with SharedServers() as shared:
            async with Bench(shared) as bench:
                for job in alone:
                    await self._one(job, bench)
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._at_once, len(rounds))):
                    group.create_task(self._many(rounds, shared))
        self._report.write_table()
        return self._wrong

    async def _many(self, jobs: deque[Job], shared: SharedServers) -> None:
        async with Bench(shared) as bench:
            while jobs:
                await self._one(jobs.popleft(), bench)

    async def _one(self, job: Job, bench: Bench) -> None:
        begun = time.monotonic()
        try:
            outcome = await job.run(bench)
        except Exception as error:
            traceback.print_exc()
            outcome = Outcome(job.suite, job.cell, job.seed, [f"the run broke: {error!r}"], {}, time.monotonic() - begun)
            await bench.forget()
        self._report.add(job, outcome)
        self._done += 1
        self._wrong += not outcome.good
        mark = "good" if outcome.good else "BAD "
        print(f"{mark} {self._done}/{self._all} {job.key} {outcome.seconds:.1f} s {outcome.size} {outcome.figures}", flush=True)
        for problem in outcome.problems:
            print(f"     {problem}", flush=True)


def main() -> int:
    """Reads the command line; 1 when something was found wrong."""
    parser = argparse.ArgumentParser(prog="make faults ARGS=…", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds each failpoint and action gets (default 20)")
    parser.add_argument("--seed", type=int, help="only this seed")
    shown = f"only runs whose name begins with this: {', '.join(SUITES)}, then the cell; may be given more than once"
    parser.add_argument("--only", action="append", default=[], help=shown)
    parser.add_argument("--at-once", type=int, default=4, help="clusters on which failpoints run at the same time (default 4)")
    parser.add_argument("--report", type=Path, default=DEFAULT_REPORT, help="folder of report.jsonl and report.md")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    options = parser.parse_args()
    wanted = [job for job in jobs(max(options.seeds, options.seed or 0)) if job.key.startswith(tuple(options.only) or "")]
    if options.seed is not None:
        wanted = [job for job in wanted if job.seed == options.seed]
    if options.list:
        print("\n".join(job.key for job in wanted))
        return 0
    report = Report(options.report)
    wrong = asyncio.run(Runner(wanted, report, options.at_once).run())
    print(report.write_table())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
