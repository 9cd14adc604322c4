"""Waits for quiet, gathers what is known of a client's tasks, and has it checked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict

import psycopg2
from google.protobuf.struct_pb2 import Value
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import task_pb2

from services.scheduler.storage.event_log import split
from tests.faults.checker import check
from tests.faults.client import Client
from tests.faults.cluster import Cluster
from tests.faults.events import event_of
from tests.faults.evidence import Event, Evidence, Problem, TaskRow
from tests.faults.history import digest, read

_STATES = {1: "PENDING", 2: "RUNNING", 3: "COMPLETED", 4: "FAILED", 5: "CANCELLED", 6: "SCHEDULED", 7: "WAITING", 8: "BLOCKED"}
_OUTBOX = "SELECT count(*) FROM scheduler.outbox"
_WAITING = f"SELECT (SELECT count(*) FROM scheduler.tasks WHERE tenant_id = %s), ({_OUTBOX})"
_PAUSES = (0.03, 0.15)
"""seconds between two looks, from the first to the later ones."""
_TASKS = """
SELECT task_id::text, state, attempt, next_event_number - 1, spec, log, NULL::bytea AS result, lease_expires IS NOT NULL, queue
FROM scheduler.tasks WHERE tenant_id = %s
UNION ALL
SELECT task_id::text, state, attempt, next_event_number - 1, spec, log, result, false, queue
FROM scheduler.finished_tasks WHERE tenant_id = %s
"""
_MORE_EVENTS = "SELECT value FROM scheduler.task_events WHERE tenant_id = %s ORDER BY task_id, number"


async def quiet(cluster: Cluster, tenant: str, seconds: float, *, published: bool = True) -> bool:
    """Waits until every task of a tenant has ended and the outbox is empty, or for `seconds`; whether it came to that."""
    end = time.monotonic() + seconds
    pause, longest = _PAUSES
    while time.monotonic() < end:
        with contextlib.suppress(psycopg2.Error):
            [(unended, waiting)] = await asyncio.to_thread(cluster.tables.query, _WAITING, tenant)
            if not unended and not (published and waiting):
                return True
        await asyncio.sleep(pause)
        pause = min(pause * 1.2, longest)
    return False


async def evidence_of(cluster: Cluster, client: Client, seconds: float, *, published: bool = True) -> Evidence:
    """What is known of a client's tasks; waits for Kafka for at most `seconds`."""
    query = cluster.tables.query
    rows = await asyncio.to_thread(query, _TASKS, client.tenant, client.tenant)
    more: dict[str, list[TaskEvent]] = defaultdict(list)
    for (value,) in await asyncio.to_thread(query, _MORE_EVENTS, client.tenant):
        event = TaskEvent.FromString(bytes(value))
        more[event.task_id].append(event)
    tasks: dict[str, TaskRow] = {}
    table: list[Event] = []
    for task_id, state, attempt, last, spec, log, result, leased, queue in rows:
        asked = task_pb2.Task.FromString(bytes(spec))
        value = "" if result is None else digest(Value.FromString(bytes(result)).SerializeToString(deterministic=True))
        tasks[task_id] = TaskRow(
            task_id,
            asked.description,
            _STATES[state],
            attempt,
            last,
            value,
            leased,
            queue,
            asked.concurrency_key,
            asked.replay_of,
        )
        table += [event_of(TaskEvent.FromString(part)) for part in split(bytes(log))]
        table += [event_of(event) for event in more.pop(task_id, ())]
    table += [event_of(event) for events in more.values() for event in events]
    if published:
        await cluster.reader.until(client.tenant, {(event.task_id, event.number) for event in table}, seconds)
    outbox = await _left_in_outbox(cluster, seconds) if published else 0
    known = set(tasks)
    history = [
        operation
        for operation in read(cluster.histories(), client.since)
        if operation.asked.get("tenant") == client.tenant or operation.asked.get("task_id") in known
    ]
    return Evidence(
        history=history,
        tasks=tasks,
        table=table,
        kafka=list(cluster.reader.events[client.tenant]) if published else None,
        state=list(cluster.reader.states[client.tenant]) if published else None,
        watches=[watch for watch in client.watches if watch],
        outbox=outbox,
        limits=cluster.limits,
        wall=time.time() - time.monotonic(),
    )


async def _left_in_outbox(cluster: Cluster, seconds: float) -> int:
    """Rows that stay; others come and go, since ended tasks of other tenants leave in the meantime."""
    end = time.monotonic() + seconds
    while True:
        [(rows,)] = await asyncio.to_thread(cluster.tables.query, _OUTBOX)
        if not rows or time.monotonic() > end:
            return int(rows)
        await asyncio.sleep(_PAUSES[0])


async def judge(cluster: Cluster, client: Client, seconds: float, *, published: bool = True) -> tuple[Evidence, list[Problem]]:
    """Waits for quiet and checks everything."""
    await quiet(cluster, client.tenant, seconds, published=published)
    await client.watched(min(10, seconds / 4))
    evidence = await evidence_of(cluster, client, min(30, seconds / 4), published=published)
    return evidence, check(evidence)
