"""Scenes in which a promise that is broken shows: what clients do, and what is done to a cluster meanwhile."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

from tests.faults.client import Client, client_of
from tests.faults.clocks import add_clocks, wrong_clocks
from tests.faults.cluster import Cluster
from tests.faults.hooks import hooked
from tests.faults.judge import evidence_of, quiet
from tests.faults.limited import HALTED, KEYED, KEYS
from tests.faults.members import Member
from tests.faults.operator import Operator
from tests.faults.tools import tools_of

_OWNER = "SELECT address FROM scheduler.dispatch_owners WHERE lease_expires > clock_timestamp()"
_RUNNING = "SELECT count(*) FROM scheduler.tasks WHERE tenant_id = %s AND state = 2"
_RUNNING_NEW = f"{_RUNNING} AND priority = 9"
_FAILED = "SELECT count(*) FROM scheduler.dead_letters WHERE tenant_id = %s"
_QUIET_SECONDS = 5.0
Scene = Callable[[Cluster, Client], Awaitable[None]]


async def load(cluster: Cluster, client: Client) -> None:
    """Nothing but work and watchers."""
    for turn in range(3):
        await client.submit(
            {f"{client.tenant}-{turn}-{number}": ("", "nap", "steps", "later", "ask")[number % 5] for number in range(35)}
        )
        for task_id in list(client.task_ids.values())[-10:]:
            client.watch(task_id)


async def late_commits(cluster: Cluster, client: Client) -> None:
    """Half of the creates commit long after they have taken their places in the outbox, some while the relay publishes others."""
    cluster.arm("scheduler.create.before_commit=delay:400@0.5", "scheduler")
    cluster.arm("relay.outbox.before_delete=delay:250@0.7", "relay")
    for turn in range(4):
        tags = {f"{client.tenant}-{turn}-{number}": "nap" for number in range(20)}
        await client.submit(tags, batch=False)


async def race(cluster: Cluster, client: Client) -> None:
    """Tasks are cancelled at the moment at which they complete."""
    cluster.arm("scheduler.report.before_commit=delay:40,scheduler.cancel.before_commit=delay:20@0.5", "scheduler")
    for turn in range(3):
        await client.submit({f"{client.tenant}-{turn}-{number}": "nap" for number in range(40)})
        mine = list(client.task_ids.values())[-40:]
        await asyncio.gather(*(_cancel(cluster, client, task_id) for task_id in mine))


async def _cancel(cluster: Cluster, client: Client, task_id: str) -> None:
    # How soon a task runs is the machine's affair: half of them are cancelled once they do.
    if cluster.random.random() < 0.5:
        await client.until_started(task_id)
        await asyncio.sleep(cluster.random.uniform(0, 0.08))
    else:
        await asyncio.sleep(cluster.random.uniform(0, 0.15))
    await client.cancel(task_id)


async def torn_report(cluster: Cluster, client: Client) -> None:
    """Both schedulers crash with results that are written and not committed."""
    await client.submit({f"{client.tenant}-0-{number}": "" for number in range(10)})
    cluster.arm("scheduler.report.before_commit=crash@1", "scheduler")
    await client.submit({f"{client.tenant}-1-{number}": "" for number in range(40)})
    await _until_fired(cluster)


async def torn_relay(cluster: Cluster, client: Client) -> None:
    """The relay crashes with records that Kafka has and that are not committed."""
    await client.submit({f"{client.tenant}-0-{number}": "" for number in range(10)})
    cluster.arm("relay.publish.after_send=crash@2", "relay")
    await client.submit({f"{client.tenant}-1-{number}": "" for number in range(40)})
    await _until_fired(cluster)


async def _until_fired(cluster: Cluster, action: str = "") -> None:
    end = time.monotonic() + 10
    while not any(action in fired[1] for fired in cluster.fired()) and time.monotonic() < end:  # noqa: ASYNC110 - it happens in another process
        await asyncio.sleep(0.05)
    cluster.arm("")


async def graphs(cluster: Cluster, client: Client) -> None:
    """Nothing but tasks that wait for each other."""
    for turn in range(3):
        await client.submit_graph({f"{client.tenant}-{turn}-{number}": ("", "nap", "steps")[number % 3] for number in range(40)})
        for task_id in list(client.task_ids.values())[-10:]:
            client.watch(task_id)


async def stale_owner(cluster: Cluster, client: Client) -> None:
    """Who decides stands still with starts it has decided on; another fills the queue with other tasks before it goes on."""
    operator = Operator(client)
    # A worker that runs nothing would not notice that its scheduler is silent.
    await client.submit({f"{client.tenant}-else-{number}": "hold long" for number in range(12)})
    await operator.pause(HALTED)
    client.within(HALTED, priority=1)
    await client.submit({f"{client.tenant}-old-{number}": "hold long" for number in range(5)})
    cluster.arm("scheduler.decide.before_start=delay:700@1", "scheduler")
    await operator.resume(HALTED)
    await _until_fired(cluster)
    owner = await _owner(cluster)
    owner.send(signal.SIGSTOP)
    try:
        others = [port for port in cluster.ports if owner is not cluster.members[f"scheduler-{cluster.ports.index(port)}"]]
        async with client_of(cluster, client.tenant, others) as beside:
            # Before another decides, who would start the others at once.
            beside.within(HALTED, priority=9)
            await beside.submit({f"{client.tenant}-new-{number}": "hold long" for number in range(5)})
        await _owner(cluster, but=owner)
        await _until(cluster, _RUNNING_NEW, client.tenant, 5)
    finally:
        owner.send(signal.SIGCONT)


async def keys(cluster: Cluster, client: Client) -> None:
    """Many tasks with one concurrency key wait for each other."""
    client.within(KEYED, key=KEYS[0])
    await client.submit({f"{client.tenant}-{number}": "hold" for number in range(20)})


async def take_over(cluster: Cluster, client: Client) -> None:
    """Who decides is killed while as many tasks run as may."""
    client.within(HALTED)
    await client.submit({f"{client.tenant}-{number}": "hold long" for number in range(10)})
    await _running(cluster, client, 5)
    owner = await _owner(cluster)
    owner.send(signal.SIGKILL)
    await _owner(cluster, but=owner)


async def pause(cluster: Cluster, client: Client) -> None:
    """A queue is paused between a decision and its start."""
    operator = Operator(client)
    client.within(HALTED)
    await operator.pause(HALTED)
    await client.submit({f"{client.tenant}-{number}": "hold" for number in range(10)})
    cluster.arm("scheduler.decide.before_start=delay:400@1", "scheduler")
    await operator.resume(HALTED)
    await _until_fired(cluster)
    await operator.pause(HALTED)
    await asyncio.sleep(1)
    await operator.resume(HALTED)


async def schedules(cluster: Cluster, client: Client) -> None:
    """Both schedulers look at the same schedules while their runs are not committed; then one crashes before it commits."""
    await client.submit({f"{client.tenant}-{number}": "" for number in range(5)})
    # Longer than it takes until the other looks by itself.
    cluster.arm("scheduler.fire.before_commit=delay:1500", "scheduler")
    await add_clocks(cluster, client, 3)
    await _until_fired(cluster)
    # Whoever has looked meanwhile is to commit, too.
    await asyncio.sleep(2)
    cluster.arm("scheduler.fire.before_commit=crash@1", "scheduler")
    await add_clocks(cluster, client, 3)
    await _until_fired(cluster, "crash")
    cluster.surprises += await wrong_clocks(cluster, client)


async def signals(cluster: Cluster, client: Client) -> None:
    """Two values at once for tasks that have not started, and for such that run and are about to wait."""
    tags = {f"{client.tenant}-{number}": "ask later" if number % 2 else "ask slowly" for number in range(16)}
    await client.submit(tags)

    async def answer(tag: str) -> None:
        task_id = client.task_ids[tag]
        if tags[tag] == "ask slowly":
            await client.until_started(task_id)
        await asyncio.gather(*(client.signal(task_id, value) for value in ("yes", "no")))

    await asyncio.gather(*map(answer, tags))


async def replays(cluster: Cluster, client: Client) -> None:
    """Several ask at once for the replay of the same failed tasks."""
    operator = Operator(client)
    await client.submit({f"{client.tenant}-{number}": "fail" for number in range(8)})
    await _until(cluster, _FAILED, client.tenant, 8)
    cluster.arm("scheduler.replay.before_commit=delay:150", "scheduler")
    await asyncio.gather(*(operator.replay(task_id) for task_id in client.task_ids.values() for _ in range(3)))


async def receiver(cluster: Cluster, client: Client) -> None:
    """A webhook process crashes behind an answer of a receiver, which refuses some events the first time."""
    async with hooked(cluster, client) as hook:
        cluster.arm("webhooks.send.after_answer=crash@9", "webhooks")
        await client.submit({f"{client.tenant}-{number}": "steps" for number in range(20)})
        await _until_fired(cluster)
        await quiet(cluster, client.tenant, _QUIET_SECONDS)
        evidence = await evidence_of(cluster, client, _QUIET_SECONDS)
        cluster.surprises += await hook.wrong(evidence.table, _QUIET_SECONDS)


async def tools(cluster: Cluster, client: Client) -> None:
    """A tool service crashes while it publishes what was run."""
    async with tools_of(cluster, client) as tool:
        cluster.arm("tool.publish.before_commit=crash@1", "tool")
        tags = {f"{client.tenant}-{number}": "slow" for number in range(4)}
        await client.submit(tags)
        await asyncio.gather(tool.run_for(list(tags)), _until_fired(cluster))
        cluster.surprises += await tool.told(_QUIET_SECONDS)
        evidence = await evidence_of(cluster, client, _QUIET_SECONDS)
        cluster.surprises += await tool.wrong(evidence.table, _QUIET_SECONDS)


async def _owner(cluster: Cluster, but: Member | None = None) -> Member:
    """Waits until a scheduler decides, other than `but`."""
    while True:
        for (address,) in await asyncio.to_thread(cluster.tables.query, _OWNER):
            member = cluster.members[f"scheduler-{cluster.ports.index(int(address.rpartition(':')[2]))}"]
            if member is not but:
                return member
        await asyncio.sleep(0.02)


async def _running(cluster: Cluster, client: Client, number: int) -> None:
    await _until(cluster, _RUNNING, client.tenant, number)


async def _until(cluster: Cluster, statement: str, tenant: str, number: int) -> None:
    """Waits until a statement counts so many."""
    while (await asyncio.to_thread(cluster.tables.query, statement, tenant))[0][0] < number:  # noqa: ASYNC110 - it is elsewhere
        await asyncio.sleep(0.02)


SCENES: dict[str, Scene] = {
    "load": load,
    "graphs": graphs,
    "late commits": late_commits,
    "race": race,
    "torn report": torn_report,
    "torn relay": torn_relay,
    "keys": keys,
    "stale owner": stale_owner,
    "take-over": take_over,
    "pause": pause,
    "schedules": schedules,
    "signals": signals,
    "replays": replays,
    "receiver": receiver,
    "tools": tools,
}
LIMITED = ("keys", "stale owner", "take-over", "pause")
"""scenes for which the cluster has queues with limits."""
