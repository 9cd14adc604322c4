"""Rounds of one place, one action and one seed, on a cluster that goes on from round to round.

Each has a tenant of its own, its own rule, moment and work, and is judged by itself: by everything of its tenant.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import psycopg2

from tests.faults import beside, bodies, hooks, letters, tools
from tests.faults.checker import check
from tests.faults.client import Client, client_of
from tests.faults.clocks import add_clocks, wrong_clocks
from tests.faults.cluster import Cluster, Shape, kill_one
from tests.faults.judge import evidence_of, quiet
from tests.faults.limited import HALTED
from tests.faults.operator import Operator
from tests.faults.outcome import Outcome, told
from tests.faults.suites import GRAPH_MIX, MIX
from tests.faults.tools import Tools
from tests.support.past import ended_tasks, take_newest_partition

ACTIONS = ("crash", "delay", "error", "cut")
SHAPE = Shape(schedulers=2, relays=2, workers=2, lease_seconds=0.8, relay_lease_seconds=0.6, spawned=True, limited=0.3)
"""Small and quick: what breaks comes back within a second."""
# The longest is longer than every lease: whoever wakes from it is stale.
_DELAYS = (30, 300, 1500)
_LATEST_MOMENT = 0.06
_MOST_TURNS = 30
_TASKS_A_TURN = 12
_QUIET_SECONDS = 45.0
_RETENTION = tuple(
    f"scheduler.{what}." for what in ("add_partition", "detach_partition", "expire", "expire_rest", "drop_partition")
)
_HALT_SECONDS = 0.15
_DECIDED = ("scheduler.decide.", "scheduler.take_over.", "scheduler.exchange.")
_RACED = "scheduler.lease."
# In one that several tenants share a single replica decides what starts, once they wait in it: nobody leases then.
_OWN_QUEUE = "faults-own"
_END_LISTENING = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'guildmesh-scheduler-listen' AND datname = current_database()
"""


def rule_of(name: str, action: str, seed: int) -> str:
    """The rule of a round: the seed decides when it acts, and how long a delay is."""
    chance = random.Random(f"{name} {action} {seed}")
    argument = f":{chance.choice(_DELAYS)}" if action == "delay" else ""
    # A lane is opened twice in the life of a relay, and few other things happen only so often.
    most = 2 if name.startswith("relay.lane.") else 3
    when = f"@{chance.randint(1, most)}" if action in ("crash", "delay") else chance.choice(("@1", "@2", "@0.5"))
    return f"{name}={action}{argument}{when}"


async def failpoint(cluster: Cluster, name: str, action: str, seed: int) -> Outcome:
    """One round: work until the rule has acted, then quiet, then judgement."""
    begun = time.monotonic()
    rule = rule_of(name, action, seed)
    chance = cluster.random = random.Random(f"{name} {action} {seed}")
    before = len(cluster.fired())
    dead = cluster.deaths()
    async with client_of(cluster) as client, AsyncExitStack() as stack:
        hook = await stack.enter_async_context(hooks.hooked(cluster, client)) if name.startswith(hooks.PLACES) else None
        tool = await stack.enter_async_context(tools.tools_of(cluster, client)) if name.startswith(tools.PLACES) else None
        if name.startswith(_DECIDED):
            client.limited = 1.0
        elif name.startswith(_RACED):
            await Operator(client).make(_OWN_QUEUE)
            client.within(_OWN_QUEUE)
        async with armed(cluster, rule, chance.uniform(0, _LATEST_MOMENT)) as acted:
            turn = 0
            while turn < _MOST_TURNS and (turn < 2 or not acted.is_set()):
                await _work(cluster, client, name, turn, tool)
                await _wait(acted, _patience(cluster.shape, name))
                turn += 1
        fired = len(cluster.fired()) - before
        worked = time.monotonic()
        untold = await tool.told(_QUIET_SECONDS) if tool is not None else []
        await quiet(cluster, client.tenant, _QUIET_SECONDS)
        quieted = time.monotonic()
        await client.watched(10)
        evidence = await evidence_of(cluster, client, 10)
        problems = check(evidence)
        beside = untold + await _beside(cluster, client, name)
        if hook is not None:
            beside += await hook.wrong(evidence.table, _QUIET_SECONDS)
        if tool is not None:
            beside += await tool.wrong(evidence.table, _QUIET_SECONDS)
        deaths = cluster.deaths() - dead
        cluster.reader.forget(client.tenant)
    surprises, cluster.surprises[:] = [*cluster.surprises, *beside], []
    if not fired:
        surprises.append("the place was not visited")
    ended = time.monotonic()
    spent = [round(seconds, 2) for seconds in (worked - begun, quieted - worked, ended - quieted)]
    figures = {"rule": rule, "fired": fired, "deaths": deaths, "turns": turn, "spent": spent}
    return Outcome("failpoints", f"{name} {action}", seed, told(problems, surprises), evidence.size(), ended - begun, figures)


@asynccontextmanager
async def armed(cluster: Cluster, rule: str, moment: float) -> AsyncIterator[asyncio.Event]:
    """Sets a rule after a moment, and takes it away when it has acted; gives what is set then."""
    before = len(cluster.fired())
    acted = asyncio.Event()
    # A process that starts again counts from 0: it would crash for ever if the rule stayed. A chance gets some more turns.
    enough = before + (3 if "." in rule.rpartition("@")[2] else 1)

    async def watch() -> None:
        await asyncio.sleep(moment)
        cluster.arm(rule, rule.partition(".")[0])
        while (fired := len(cluster.fired())) < enough:
            if fired > before:
                acted.set()
            await asyncio.sleep(0.02)
        cluster.arm("")
        acted.set()

    watching = asyncio.create_task(watch())
    try:
        yield acted
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        cluster.arm("")


async def _work(cluster: Cluster, client: Client, name: str, turn: int, tool: Tools | None) -> None:
    chance = cluster.random
    tags = {f"{client.tenant}-{turn}-{number}": chance.choice(MIX) for number in range(_TASKS_A_TURN)}
    if tool is not None or "heartbeat" in name or "sweep" in name or "append" in name:
        tags |= dict.fromkeys(list(tags)[:4], "slow")
    if "signal" in name:
        tags |= dict.fromkeys(list(tags)[:4], "ask")
    if "ready" in name:
        tags |= dict.fromkeys(list(tags)[:4], "later")
    async with asyncio.TaskGroup() as group:
        group.create_task(client.submit(tags, batch=turn % 2 == 0))
        if turn % 2 == 0 or "graph" in name:
            nodes = {f"{client.tenant}-{turn}-node-{number}": chance.choice(GRAPH_MIX) for number in range(_TASKS_A_TURN)}
            group.create_task(client.submit_graph(nodes))
        group.create_task(_provoke(cluster, client, name, turn, list(tags)[:4]))
        if tool is not None:
            group.create_task(tool.run_for(list(tags)[:4]))
        if turn % 2 == 1 or name.startswith(_DECIDED):
            group.create_task(_halt(Operator(client)))
    known = [client.task_ids[tag] for tag in tags]
    client.watch(known[0])
    await client.cancel(chance.choice(known))


async def _halt(operator: Operator) -> None:
    await operator.pause(HALTED)
    await asyncio.sleep(_HALT_SECONDS)
    await operator.resume(HALTED)


async def _wait(acted: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await acted.wait()
    except TimeoutError:
        pass


def _patience(shape: Shape, name: str) -> float:
    """How long what a turn brought about may take until it is at the place."""
    if name.startswith("scheduler.sweep."):
        return 1.5 * shape.lease_seconds
    if name.startswith("relay.lane."):
        return 3 * shape.relay_lease_seconds
    if name.startswith((*_DECIDED, *bodies.PLACES, *hooks.PLACES, *tools.PLACES)):
        return 1.0
    if name.startswith((*_RETENTION, "scheduler.ready.", "scheduler.signal.", "scheduler.fire.")):
        return 1.0
    if name.startswith(("scheduler.heartbeat.", "relay.lease.")):
        return shape.lease_seconds / 2
    return 0.2


async def _beside(cluster: Cluster, client: Client, name: str) -> list[str]:
    """What is wrong with the runs of schedules, once all have started, with dead letters, and with payloads that nobody uses."""
    if name.startswith(bodies.PLACES):
        tenant, end = f"{client.tenant}-bodies", time.monotonic() + _QUIET_SECONDS
        left = ["nobody has looked"]
        while left and time.monotonic() < end:
            left = await asyncio.to_thread(bodies.left, cluster, cluster.tables.query, tenant)
            await asyncio.sleep(0.1)
        return left
    if name.startswith(letters.PLACES):
        return await asyncio.to_thread(letters.wrong_letters, cluster.tables.query, _letters_of(client))
    return await wrong_clocks(cluster, client) if name.startswith("scheduler.fire.") else []


def _letters_of(client: Client) -> str:
    """The tenant of a round's dead letters: what failed long ago nobody of the round has asked for."""
    return f"{client.tenant}-letters"


async def _provoke(cluster: Cluster, client: Client, name: str, turn: int, tags: Sequence[str]) -> None:
    """What it takes for a place to be visited that is off the usual way."""
    if name.startswith("scheduler.sweep."):
        # After it has been given some work.
        await asyncio.sleep(0.1)
        await kill_one(cluster, "worker")
    elif name.startswith("scheduler.exchange."):
        # Where workers are elsewhere than the decisions is a matter of chance, at each start of one.
        await kill_one(cluster, "worker")
    elif name.startswith("relay.lane."):
        # A relay that is killed before it has opened its lanes shows nothing.
        if turn % 2 == 0:
            await kill_one(cluster, "relay")
    elif name.startswith("scheduler.fire."):
        await add_clocks(cluster, client, 5)
    elif name.startswith(beside.PLACES):
        await beside.provoke(cluster, client, name, turn, tags)
    elif name.startswith(bodies.PLACES):
        await bodies.provoke(cluster, f"{client.tenant}-bodies")
    elif name.startswith(letters.PLACES):
        await letters.provoke(cluster, _letters_of(client), name)
    elif name.startswith(("scheduler.listen.", "scheduler.take_over.")):
        # Whoever decides and may have missed something begins a new epoch.
        await asyncio.to_thread(_end_listening, cluster.servers.database_url)
    elif name.startswith("scheduler.add_partition."):
        await asyncio.to_thread(take_newest_partition, cluster.servers.database_url)
    elif name.startswith("scheduler.expire_rest."):
        await asyncio.to_thread(ended_tasks, cluster.servers.database_url, 5, f"past-{turn}", partition=False)
    elif name.startswith(_RETENTION):
        await asyncio.to_thread(ended_tasks, cluster.servers.database_url, 5, f"past-{turn}")


def _end_listening(url: str) -> None:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(_END_LISTENING)
    finally:
        connection.close()
