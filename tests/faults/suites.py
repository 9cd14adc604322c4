"""What is done to a cluster, and how it is judged. Each suite is one run with one seed; `make faults` runs all of them."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg2

from tests.faults.checker import Evidence, Problem
from tests.faults.client import BATCH, Client, client_of
from tests.faults.cluster import Cluster, Shape, kill_one, running_cluster
from tests.faults.judge import judge
from tests.faults.servers import restart, servers_of
from tests.support.servers import running_kafka, running_postgres

MOST_TOLD = 20
# Most tasks are quick; some need a journal, another attempt, several leases, or fail.
MIX = ("", "", "", "nap", "nap", "steps", "retry", "fail")


@dataclass
class Outcome:
    """How one run ended."""

    suite: str
    cell: str
    seed: int
    problems: list[str] = field(default_factory=list)
    size: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether nothing was wrong, and something was judged."""
        return not self.problems and self.size.get("tasks", 0) > 0

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return {**asdict(self), "good": self.good}


def told(problems: Sequence[Problem], surprises: Sequence[str]) -> list[str]:
    """The first of what is wrong, in words."""
    return [str(problem) for problem in problems[:MOST_TOLD]] + [text[:600] for text in surprises[:MOST_TOLD]]


async def load(cluster: Cluster, client: Client, tasks: int, seconds: float, *, watchers: int = 20) -> None:
    """Asks for tasks over some time; asks again for some of them, cancels some, watches some."""
    chance = cluster.random
    tags = [f"{client.tenant}-{number}" for number in range(tasks)]
    wanted = {tag: chance.choice(MIX) for tag in tags}
    begun = time.monotonic()
    for place in range(0, tasks, BATCH):
        await asyncio.sleep(max(0.0, begun + seconds * place / tasks - time.monotonic()))
        mine = {tag: wanted[tag] for tag in tags[place : place + BATCH]}
        # A caller that did not trust its answer: the same request ids, in another batch.
        again = {tag: wanted[tag] for tag in chance.sample(tags[:place], min(place, 5))}
        await asyncio.gather(client.submit(mine), client.submit(again))
        known = [client.task_ids[tag] for tag in mine]
        for task_id in known[: max(1, watchers * BATCH // tasks)]:
            client.watch(task_id)
        await asyncio.gather(*(client.cancel(task_id) for task_id in chance.sample(known, len(known) // 50)))


async def run_against(
    cluster: Cluster, tasks: int, seconds: float, trouble: Callable[[], Coroutine[None, None, None]], settle: float
) -> tuple[Evidence, list[Problem]]:
    """Load and trouble at once, then quiet, then judgement."""
    async with client_of(cluster) as client:
        async with asyncio.TaskGroup() as group:
            group.create_task(load(cluster, client, tasks, seconds))
            group.create_task(trouble())
        return await judge(cluster, client, settle)


async def kills_here(cluster: Cluster, *, tasks: int, seconds: float, postgres: int = 0, kafka: int = 0) -> Outcome:
    """kill -9 of a random process every second; PostgreSQL and Kafka are restarted meanwhile, by turns in order and by force."""
    begun = time.monotonic()
    chance = random.Random(cluster.shape.seed)
    done: list[str] = []

    locks = {"postgres": asyncio.Lock(), "kafka": asyncio.Lock()}

    async def again(what: str, *, kill: bool) -> None:
        part = cluster.servers.postgres_part if what == "postgres" else cluster.servers.kafka_part
        async with locks[what]:
            await restart(part, kill=kill)

    async def trouble() -> None:
        start = time.monotonic()
        moments = sorted(
            [(chance.uniform(0.1, 0.9) * seconds, "postgres", turn) for turn in range(postgres)]
            + [(chance.uniform(0.1, 0.9) * seconds, "kafka", turn) for turn in range(kafka)]
        )
        async with asyncio.TaskGroup() as restarts:
            while (now := time.monotonic() - start) < seconds:
                while moments and moments[0][0] <= now:
                    _, what, turn = moments.pop(0)
                    restarts.create_task(again(what, kill=turn % 2 == 1))
                done.append(await kill_one(cluster, "scheduler", "relay", "worker"))
                await asyncio.sleep(chance.uniform(0.6, 1.4))

    evidence, problems = await run_against(cluster, tasks, seconds, trouble, 180)
    found = told(problems, [*cluster.surprises, *await asyncio.to_thread(doctor, cluster.servers.database_url)])
    figures = {"killed": len(done), "postgres": postgres, "kafka": kafka}
    return Outcome("kills", f"{tasks:,} tasks", cluster.shape.seed, found, evidence.size(), time.monotonic() - begun, figures)


async def pauses_here(cluster: Cluster, *, tasks: int, times: int) -> Outcome:
    """A relay is stopped for three times its lease and continued, again and again under load."""
    begun = time.monotonic()
    lease = cluster.shape.relay_lease_seconds

    async def trouble() -> None:
        relays = cluster.of("relay")
        for turn in range(times):
            member = relays[turn % len(relays)]
            member.send(signal.SIGSTOP)
            await asyncio.sleep(3 * lease)
            member.send(signal.SIGCONT)
            await asyncio.sleep(cluster.random.uniform(0.2, 0.2 + lease))

    evidence, problems = await run_against(cluster, tasks, times * (3 * lease + 0.5), trouble, 90)
    found = told(problems, cluster.surprises)
    figures = {"pauses": times, "seconds": 3 * lease}
    return Outcome("pauses", f"{times} pauses", cluster.shape.seed, found, evidence.size(), time.monotonic() - begun, figures)


@asynccontextmanager
async def own_cluster(folder: Path, shape: Shape) -> AsyncIterator[Cluster]:
    """A cluster with servers of its own, which may be restarted."""
    with running_postgres() as postgres, running_kafka() as kafka:
        async with running_cluster(folder, servers_of(postgres, kafka), shape) as cluster:
            yield cluster


def doctor(url: str) -> list[str]:
    """What `guildmesh doctor --data` finds wrong."""
    from services.embedded.data_check import check_data

    return [f"doctor: {finding.about}: {text}" for finding in check_data(url) for text in finding.problems]


ACTIONS = ("crash", "delay", "error", "cut")
# A delay longer than every lease: whoever wakes from it is stale.
_DELAYS = (30, 300, 2500)
_MOST_TURNS = 30


def rule_of(name: str, action: str, seed: int) -> str:
    """The rule of a cell: the seed decides when it acts, and how long a delay is."""
    chance = random.Random(f"{name} {action} {seed}")
    argument = f":{chance.choice(_DELAYS)}" if action == "delay" else ""
    when = f"@{chance.randint(1, 2)}" if action in ("crash", "delay") else chance.choice(("@1", "@2", "@0.5"))
    return f"{name}={action}{argument}{when}"


async def failpoint(cluster: Cluster, name: str, action: str, seed: int) -> Outcome:
    """One place, one action, one seed, on a cluster that goes on from cell to cell: work until it acts, then quiet."""
    begun = time.monotonic()
    rule = rule_of(name, action, seed)
    chance = cluster.random = random.Random(f"{name} {action} {seed}")
    before = len(cluster.fired())
    lives = sum(member.lives for member in cluster.members.values())
    async with client_of(cluster) as client:
        cluster.arm(rule, "relay" if name.startswith("relay.") else "scheduler")
        disarming = asyncio.create_task(_disarm_after(cluster, before + (3 if "." in rule.rpartition("@")[2] else 1)))
        turn = 0
        while turn < _MOST_TURNS and (turn < 2 or len(cluster.fired()) == before):
            tags = {f"{client.tenant}-{turn}-{number}": chance.choice(MIX) for number in range(12)}
            if "heartbeat" in name or "sweep" in name:
                tags |= dict.fromkeys(list(tags)[:4], "slow")
            async with asyncio.TaskGroup() as group:
                group.create_task(client.submit(tags, batch=turn % 2 == 0))
                group.create_task(_provoke(cluster, name, turn))
            known = [client.task_ids[tag] for tag in tags]
            client.watch(known[0])
            await client.cancel(chance.choice(known))
            await asyncio.sleep(0.2)
            turn += 1
        disarming.cancel()
        cluster.arm("")
        fired = len(cluster.fired()) - before
        evidence, problems = await judge(cluster, client, 45)
    surprises, cluster.surprises[:] = list(cluster.surprises), []
    if not fired:
        surprises.append("the place was not visited")
    figures = {"rule": rule, "fired": fired, "deaths": sum(member.lives for member in cluster.members.values()) - lives}
    return Outcome(
        "failpoints", f"{name} {action}", seed, told(problems, surprises), evidence.size(), time.monotonic() - begun, figures
    )


async def _disarm_after(cluster: Cluster, fired: int) -> None:
    """A process that starts again counts from 0: without this it would crash for ever."""
    while len(cluster.fired()) < fired:  # noqa: ASYNC110 - it happens in other processes
        await asyncio.sleep(0.03)
    cluster.arm("")


async def _provoke(cluster: Cluster, name: str, turn: int) -> None:
    """What it takes for a place to be visited that is off the usual way."""
    if name.startswith("scheduler.sweep."):
        await asyncio.sleep(0.1)
        await kill_one(cluster, "worker")
    elif name.startswith("relay.lane."):
        # A relay that is killed before it has opened its lanes shows nothing.
        if turn % 12 == 0:
            await kill_one(cluster, "relay")
    elif name.startswith("scheduler.listen."):
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'guildmesh-scheduler-listen'"
        connection = await asyncio.to_thread(psycopg2.connect, cluster.servers.database_url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(end)
        finally:
            connection.close()
