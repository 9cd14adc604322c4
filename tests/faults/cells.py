"""The nine cells by which queues on PostgreSQL are measured: the rate before, meanwhile and after, nothing lost, a clean stop.

A machine is not as fast in one minute as in the next. So a second mesh with servers of its own, the twin, does the same work in
the same seconds without any trouble: the rates that are compared are shares of the twin's. The cell `control` is one without
trouble, and says how far such shares move by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from tests.faults.client import Client, client_of
from tests.faults.cluster import Cluster, Shape, kill_one, running_cluster
from tests.faults.judge import judge
from tests.faults.outcome import Outcome, told
from tests.faults.servers import Servers, restart, servers_of
from tests.faults.suites import doctor
from tests.support.servers import running_kafka, running_postgres

WINDOWS = 5
GATE = 0.95
_BATCH = 50
_IN_FLIGHT = 300
_SAMPLE_SECONDS = 0.25
# The scheduler's own counts: to count the rows that ended would take ever longer, at the cost of the rate that is measured.
_COUNT = """
SELECT COALESCE(sum(number), 0) FROM (
  SELECT tasks AS number FROM scheduler.task_counts WHERE state >= 3
  UNION ALL SELECT change FROM scheduler.task_count_changes, unnest(states, changes) AS c (state, change) WHERE state >= 3
) c
"""


class Steady:
    """Keeps a number of tasks in flight, and counts those that ended."""

    def __init__(self, cluster: Cluster, client: Client) -> None:
        self._cluster = cluster
        self._client = client
        self._numbers = itertools.count()
        self._asked = 0
        self._ended_before = 0
        self._samples: list[tuple[float, int]] = [(time.monotonic(), 0)]

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Work goes on inside."""
        with contextlib.closing(await asyncio.to_thread(_connect, self._cluster.servers.database_url)) as connection:
            self._ended_before = await asyncio.to_thread(_ended, connection)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._submit()), group.create_task(self._count())]
            yield
            for task in tasks:
                task.cancel()

    async def flows(self) -> None:
        """Waits until tasks end."""
        async with asyncio.timeout(60):
            while not self._samples[-1][1]:  # noqa: ASYNC110 - the count is another task's
                await asyncio.sleep(_SAMPLE_SECONDS)

    async def rate(self, window: float) -> float:
        """The rate of a window from now on, in tasks a second."""
        begun = self._samples[-1]
        await asyncio.sleep(window)
        ended = self._samples[-1]
        return (ended[1] - begun[1]) / max(ended[0] - begun[0], 1e-9) if ended[0] > begun[0] else 0.0

    async def more(self, number: int) -> None:
        """Asks for that many tasks at once."""
        self._asked += number
        await self._client.submit({f"{self._client.tenant}-{next(self._numbers)}": "" for _ in range(number)})

    async def _submit(self) -> None:
        while True:
            if self._asked - self._samples[-1][1] < _IN_FLIGHT:
                await self.more(_BATCH)
            else:
                await asyncio.sleep(0.01)

    async def _count(self) -> None:
        connection: Any = None
        try:
            while True:
                try:
                    if connection is None:
                        connection = await asyncio.to_thread(_connect, self._cluster.servers.database_url)
                    number = await asyncio.to_thread(_ended, connection)
                    self._samples.append((time.monotonic(), number - self._ended_before))
                except psycopg2.Error:
                    connection = None
                await asyncio.sleep(_SAMPLE_SECONDS)
        finally:
            if connection is not None:
                connection.close()


def _connect(url: str) -> Any:
    connection = psycopg2.connect(url, connect_timeout=2)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SET ROLE scheduler_engine")
    return connection


def _ended(connection: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_COUNT)
        return int(cursor.fetchone()[0])


Trouble = Callable[[Cluster, Steady, float], Coroutine[None, None, None]]


async def postgres_restart(cluster: Cluster, steady: Steady, seconds: float) -> None:
    """PostgreSQL is stopped in order and started again."""
    await restart(cluster.servers.postgres_part, kill=False)


async def backend_kills(cluster: Cluster, steady: Steady, seconds: float) -> None:
    """Every second the server ends the connection of somebody."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        opened = await asyncio.to_thread(psycopg2.connect, cluster.servers.database_url)
        with contextlib.closing(opened) as connection, connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
                " WHERE application_name LIKE 'guildmesh-%' ORDER BY random() LIMIT 1) one"
            )
        await asyncio.sleep(1)


async def pool_exhaustion(cluster: Cluster, steady: Steady, seconds: float) -> None:
    """Idle connections take every place that the server has left."""
    held: list[Any] = []
    try:
        with contextlib.suppress(psycopg2.OperationalError):
            while len(held) < 300:
                held.append(await asyncio.to_thread(psycopg2.connect, cluster.servers.database_url))
        await asyncio.sleep(seconds)
    finally:
        for connection in held:
            connection.close()


async def crash_recovery(cluster: Cluster, steady: Steady, seconds: float) -> None:
    """One scheduler and one worker are killed."""
    await kill_one(cluster, "scheduler")
    await kill_one(cluster, "worker")
    await asyncio.sleep(cluster.shape.lease_seconds)


async def repeated_kills(cluster: Cluster, steady: Steady, seconds: float) -> None:
    """Every second somebody is killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await kill_one(cluster, "scheduler", "relay", "worker")
        await asyncio.sleep(1)


async def idle_in_transaction(cluster: Cluster, steady: Steady, seconds: float) -> None:
    """A transaction that has an id does nothing, so nothing that was deleted since can be cleaned up."""
    opened = await asyncio.to_thread(psycopg2.connect, cluster.servers.database_url)
    with contextlib.closing(opened) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()")
        await asyncio.sleep(seconds)


async def high_load(cluster: Cluster, steady: Steady, seconds: float) -> None:
    """One and a half times as many tasks are asked for as end."""
    rate = await steady.rate(seconds / WINDOWS)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.gather(steady.more(max(1, int(rate / 2 * 0.2))), asyncio.sleep(0.2))


async def active_readers(cluster: Cluster, steady: Steady, seconds: float) -> None:
    """Four readers look again and again in a snapshot that they keep."""

    def read(until: float) -> None:
        with contextlib.closing(psycopg2.connect(cluster.servers.database_url)) as connection:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL ROLE scheduler_engine")
                while time.monotonic() < until:
                    cursor.execute("SELECT count(*), max(create_time) FROM scheduler.finished_tasks")
                    cursor.fetchall()
                    time.sleep(0.25)

    await asyncio.gather(*(asyncio.to_thread(read, time.monotonic() + seconds) for _ in range(4)))


async def event_burst(cluster: Cluster, steady: Steady, seconds: float) -> None:
    """Many tasks are asked for at one moment."""
    await asyncio.gather(*(steady.more(100) for _ in range(max(5, int(seconds * 4)))))


async def control(cluster: Cluster, steady: Steady, seconds: float) -> None:
    """Nothing happens."""
    await asyncio.sleep(seconds)


CELLS: dict[str, Trouble] = {
    "control": control,
    "postgres_restart": postgres_restart,
    "pg_backend_kill": backend_kills,
    "pool_exhaustion": pool_exhaustion,
    "crash_recovery": crash_recovery,
    "repeated_kills": repeated_kills,
    "idle_in_tx": idle_in_transaction,
    "sustained_high_load": high_load,
    "active_readers": active_readers,
    "event_burst": event_burst,
}
# These press for a time, in which the rate should stay; the others break something that should come back.
PRESSURE = {"control", "idle_in_tx", "active_readers"}


@dataclass(frozen=True)
class Rates:
    """What was measured in five windows."""

    median: float
    """of the mesh's own rates, in tasks a second."""
    shares: list[float]
    """what the mesh did for each task of its twin's, window by window; without a twin the rates themselves."""

    @property
    def share(self) -> float:
        """The median of the shares."""
        return statistics.median(self.shares)


class Pair:
    """The mesh that is troubled, and its twin."""

    def __init__(self, steady: Steady, twin: Steady | None) -> None:
        self._steady = steady
        self._twin = twin

    async def rates(self, window: float) -> Rates:
        """Of the next five windows, both in the same seconds."""
        rates, shares = [], []
        for _ in range(WINDOWS):
            own, twin = await asyncio.gather(self._steady.rate(window), self._twin_rate(window))
            rates.append(own)
            shares.append(own / twin)
        return Rates(statistics.median(rates), shares)

    async def _twin_rate(self, window: float) -> float:
        return max(await self._twin.rate(window), 1e-9) if self._twin else 1.0


@asynccontextmanager
async def own_servers() -> AsyncIterator[Servers]:
    """Servers that nobody shares."""
    with ExitStack() as stack:
        yield servers_of(stack.enter_context(running_postgres()), stack.enter_context(running_kafka()))


@asynccontextmanager
async def twin_of(folder: Path, shape: Shape) -> AsyncIterator[Steady]:
    """A mesh like the one that is troubled, at work."""
    async with own_servers() as servers, running_cluster(folder, servers, shape) as cluster, client_of(cluster) as client:
        steady = Steady(cluster, client)
        async with steady.working():
            yield steady


async def cell(
    folder: Path,
    name: str,
    seed: int,
    *,
    window: float,
    gate: float = GATE,
    twin: Path | None = None,
    servers: Servers | None = None,
    shape: Shape | None = None,
) -> Outcome:
    """One cell: five windows before, the trouble, five windows after (and, under pressure, five meanwhile).

    `twin` is the folder of the twin; without one the mesh is compared with itself alone.
    """
    begun = time.monotonic()
    shape = shape or Shape(seed=seed)
    async with AsyncExitStack() as outer:
        if servers is None:
            servers = await outer.enter_async_context(own_servers())
        async with AsyncExitStack() as later:
            cluster = await later.enter_async_context(running_cluster(folder, servers, shape))
            async with client_of(cluster) as client:
                steady = Steady(cluster, client)
                async with AsyncExitStack() as beside:
                    pair = Pair(steady, await beside.enter_async_context(twin_of(twin, shape)) if twin else None)
                    await beside.enter_async_context(steady.working())
                    # Both begin with all that a first time costs, the twin some seconds sooner.
                    await steady.flows()
                    await asyncio.sleep(3 * window)
                    before = await pair.rates(window)
                    trouble = asyncio.create_task(CELLS[name](cluster, steady, window * WINDOWS))
                    during = await pair.rates(window)
                    await trouble
                    if name not in PRESSURE:
                        await asyncio.sleep(window)
                    after = await pair.rates(window)
                evidence, problems = await judge(cluster, client, 120)
            figures: dict[str, Any] = {
                "before": round(before.median),
                "during": round(during.share / before.share, 3),
                "after": round(after.share / before.share, 3),
                "alone": [round(rates.median / before.median, 3) for rates in (during, after)],
                "shares": [[round(share / before.share, 2) for share in rates.shares] for rates in (before, during, after)],
                "window_seconds": window,
            }
            # Whoever stops it does so in the middle of the work.
            async with client_of(cluster) as other:
                await other.submit({f"{other.tenant}-{number}": "nap" for number in range(1000)})
            stopping = time.monotonic()
        figures["stop_seconds"] = round(time.monotonic() - stopping, 1)
        data = await asyncio.to_thread(doctor, servers.database_url)
    slow = []
    ratio = min(figures["after"], figures["during"]) if name in PRESSURE else figures["after"]
    if ratio < gate:
        slow.append(f"the rate came back to {ratio:.0%} of {before.median:.0f}/s, and should to {gate:.0%}")
    return Outcome(
        "cells",
        name,
        seed,
        told(problems, [*cluster.surprises, *data]) + slow,
        evidence.size(),
        time.monotonic() - begun,
        figures,
    )
