"""Processes that are killed and paused under load. Each suite is one run with one seed; `make faults` runs all of them."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.faults.client import BATCH, Client, client_of
from tests.faults.clocks import add_clocks, wrong_clocks
from tests.faults.cluster import Cluster, Shape, kill_one, running_cluster
from tests.faults.evidence import Evidence, Problem
from tests.faults.history import read
from tests.faults.judge import judge, quiet
from tests.faults.limited import HALTED
from tests.faults.operator import Operator
from tests.faults.outcome import Outcome, told
from tests.faults.servers import restart, servers_of
from tests.support.servers import running_kafka, running_postgres

# Most tasks are quick; some need a journal, another attempt, several leases, or fail.
MIX = ("", "", "", "nap", "nap", "steps", "retry", "fail", "later", "ask")
GRAPH_MIX = ("", "", "", "nap", "steps", "retry", "fail", "later")
# PostgreSQL ends what a silent scheduler began after 8 s at most, what it held is given back within a lease of 6 s,
# and a slow task takes another 8 s then. TCP would take minutes, and the workers' keepalive is set to 80 s.
_SILENT_SECONDS = 40.0


async def load(cluster: Cluster, client: Client, tasks: int, seconds: float, *, watchers: int = 20) -> None:
    """Asks for tasks over some time; asks again for some of them, cancels some, watches some."""
    chance, operator = cluster.random, Operator(client)
    tags = [f"{client.tenant}-{number}" for number in range(tasks)]
    wanted = {tag: chance.choice(MIX) for tag in tags}
    begun = time.monotonic()
    for place in range(0, tasks, BATCH):
        await asyncio.sleep(max(0.0, begun + seconds * place / tasks - time.monotonic()))
        mine = {tag: wanted[tag] for tag in tags[place : place + BATCH]}
        # A caller that did not trust its answer: the same request ids, in another batch.
        again = {tag: wanted[tag] for tag in chance.sample(tags[:place], min(place, 5))}
        nodes = {f"{tag}-node": chance.choice(GRAPH_MIX) for tag in list(mine)[: BATCH // 5]}
        await asyncio.gather(client.submit(mine), client.submit(again), client.submit_graph(nodes))
        await add_clocks(cluster, client, 1)
        await asyncio.gather(*(operator.replay_failed(queue) for queue in ("default", *cluster.limits)))
        known = [client.task_ids[tag] for tag in mine]
        for task_id in known[: max(1, watchers * BATCH // tasks)]:
            client.watch(task_id)
        await asyncio.gather(*(client.cancel(task_id) for task_id in chance.sample(known, len(known) // 50)))


async def run_against(
    cluster: Cluster, tasks: int, seconds: float, trouble: Callable[[], Coroutine[None, None, None]], settle: float
) -> tuple[Evidence, list[Problem]]:
    """Load and trouble at once, then quiet, then judgement."""
    async with client_of(cluster) as client:
        async with Operator(client).halting(HALTED), asyncio.TaskGroup() as group:
            group.create_task(load(cluster, client, tasks, seconds))
            group.create_task(trouble())
        evidence, problems = await judge(cluster, client, settle)
        cluster.surprises += await wrong_clocks(cluster, client)
        return evidence, problems


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


async def pauses_here(cluster: Cluster, *, tasks: int, times: int, role: str = "relay") -> Outcome:
    """A relay (or scheduler) is stopped for three times its lease and continued, again and again under load."""
    begun = time.monotonic()
    lease = cluster.shape.relay_lease_seconds if role == "relay" else cluster.shape.lease_seconds

    async def trouble() -> None:
        members = cluster.of(role)
        for turn in range(times):
            member = members[turn % len(members)]
            member.send(signal.SIGSTOP)
            await asyncio.sleep(3 * lease)
            member.send(signal.SIGCONT)
            await asyncio.sleep(cluster.random.uniform(0.2, 0.2 + lease))

    evidence, problems = await run_against(cluster, tasks, times * (3 * lease + 0.5), trouble, 90)
    found = told(problems, cluster.surprises)
    figures = {"pauses": times, "seconds": 3 * lease}
    cell = f"{times} pauses of a {role}"
    return Outcome("pauses", cell, cluster.shape.seed, found, evidence.size(), time.monotonic() - begun, figures)


async def kafka_away_here(cluster: Cluster, *, tasks: int, seconds: float, paused: bool) -> Outcome:
    """Kafka is gone, or stands still while its connections live, under load: tasks end meanwhile, and all is told later."""
    begun = time.monotonic()
    kafka = cluster.servers.kafka_part
    assert kafka is not None, "this cluster shares its servers"
    stuck: list[str] = []

    async def trouble() -> None:
        await asyncio.sleep(1)
        if paused:
            kafka.send(signal.SIGSTOP)
        else:
            await asyncio.to_thread(kafka.stop)
        try:
            await asyncio.sleep(seconds)
        finally:
            if paused:
                kafka.send(signal.SIGCONT)
            else:
                await asyncio.to_thread(kafka.start)

    async with client_of(cluster) as client:
        async with asyncio.TaskGroup() as group:
            away = group.create_task(trouble())
            await load(cluster, client, tasks, seconds / 2, watchers=0)
            if not await quiet(cluster, client.tenant, seconds / 2, published=False):
                stuck.append(f"Kafka was away for {seconds:g} s, and there were tasks that had not ended")
            if away.done():
                stuck.append("Kafka came back before all tasks had ended, so nothing is said of them")
        evidence, problems = await judge(cluster, client, 180)
    found = told(problems, [*cluster.surprises, *stuck])
    cell = f"Kafka {'stands still' if paused else 'is gone'} for {seconds:g} s"
    return Outcome("away", cell, cluster.shape.seed, found, evidence.size(), time.monotonic() - begun, {"seconds": seconds})


async def silence_here(cluster: Cluster, *, tasks: int, times: int) -> Outcome:
    """A scheduler stands still while its connections live: workers must leave it, and everything end without it."""
    begun = time.monotonic()
    lease = cluster.shape.lease_seconds
    stuck: list[str] = []
    waits: list[float] = []

    async with client_of(cluster) as client:
        # What is asked for is how soon workers leave, not how long signals are sent to whom nobody answers.
        client.call_seconds = 1.0
        for turn in range(times):
            place = turn % len(cluster.ports)
            member = cluster.of("scheduler")[place]
            others = [port for port in cluster.ports if port != cluster.ports[place]]
            async with client_of(cluster, client.tenant, others) as beside:
                tags = [f"{client.tenant}-{turn}-{number}" for number in range(2 * tasks)]
                wanted = {tag: cluster.random.choice((*MIX, "slow")) for tag in tags}
                slow = dict.fromkeys(tags[:5], "slow")
                await client.submit({tag: wanted[tag] for tag in tags[:tasks]} | slow)
                # A worker that runs nothing owes nothing, and hears of it by its transport alone.
                await _leased(cluster, client, slow)
                member.send(signal.SIGSTOP)
                stopped = time.monotonic()
                await beside.submit({tag: wanted[tag] for tag in tags[tasks:]})
                for task_id in list(beside.task_ids.values())[:5]:
                    beside.watch(task_id)
                if not await quiet(cluster, client.tenant, _SILENT_SECONDS, published=False):
                    stuck.append(f"{member.name} stood still for {_SILENT_SECONDS:g} s, and there were tasks that had not ended")
                waits.append(round(time.monotonic() - stopped, 1))
                # Whatever the others made of it: it comes back with everything it believes to hold.
                await asyncio.sleep(max(0.0, stopped + 3 * lease - time.monotonic()))
                member.send(signal.SIGCONT)
                await beside.watched(10)
                client.watches += beside.watches
        evidence, problems = await judge(cluster, client, 60)
    found = told(problems, [*cluster.surprises, *stuck])
    figures = {"silences": times, "ended_after": waits}
    return Outcome("silence", f"{times} silences", cluster.shape.seed, found, evidence.size(), time.monotonic() - begun, figures)


async def _leased(cluster: Cluster, client: Client, tags: Iterable[str]) -> None:
    """Waits until a worker has one of some tasks."""
    wanted = {client.task_ids[tag] for tag in tags}
    async with asyncio.timeout(_SILENT_SECONDS):
        while not any(  # noqa: ASYNC110 - it happens in another process
            operation.what == "lease" and operation.asked["task_id"] in wanted
            for operation in read(cluster.histories(), client.since)
        ):
            await asyncio.sleep(0.03)


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
