"""The benchmark `fairness`: tenants with uneven backlogs share the slots of one queue of a real mesh, by weight.

Weights 5:3:2. One tenant has 10,000 tasks of 10 ms to 10 s, one 10,000 of half a second, one never more than 100 of 10 s; a
fourth has a task of 10 ms every second. What each had of the slots is read from the table of tasks afterwards.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
import psycopg2
from google.protobuf.struct_pb2 import Struct, Value
from guildmesh.scheduler.v1 import queue_service_pb2 as queue_pb
from guildmesh.scheduler.v1 import queue_service_pb2_grpc as queue_grpc
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as task_grpc
from guildmesh.scheduler.v1.queue_pb2 import Queue
from guildmesh.scheduler.v1.scheduler_service_pb2 import BatchCreateTasksRequest, CreateTaskRequest
from guildmesh.scheduler.v1.task_pb2 import Task

from bench import payload
from bench.child import Child
from bench.dispatch.checker import Ran, share_error, worst_window
from bench.errors import BenchFailed
from bench.mesh import Mesh, mesh
from bench.options import Options
from bench.report import percentile, tell
from bench.tables import tables
from bench.tenants import BATCH, Metadata, TenantOfBench, make_tenants

SLOTS = 30
_QUEUE = "fair"
_MINUTE = 60.0
_LONGEST = 10.0
_POINTS = 5.0
"""by which a share may differ from its weight's in any minute."""
_SETTLED = 5.0
"""seconds after the beginning from which on minutes are looked at."""
_TICK = 0.2
_RAN = """
SELECT tenant_id, queue, NULL, extract(epoch FROM create_time)::float8, extract(epoch FROM start_time)::float8,
  extract(epoch FROM COALESCE(finish_time, clock_timestamp()))::float8
FROM (
  SELECT tenant_id, queue, create_time, start_time, finish_time FROM scheduler.finished_tasks UNION ALL
  SELECT tenant_id, queue, create_time, start_time, NULL FROM scheduler.tasks WHERE state = 2
) t WHERE queue = %s
"""
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_WAITING = "SELECT count(*) FROM scheduler.tasks WHERE queue = %s AND tenant_id = %s AND state = 1"


@dataclass(frozen=True)
class Part:
    """What one tenant asks for."""

    weight: int
    seconds: Callable[[random.Random], float]
    """how long its next task takes."""
    backlog: int = 0
    """tasks that wait at the beginning."""
    kept: int = 0
    """as many wait all the time."""
    every: float = 0.0
    """seconds between its tasks."""


PARTS = (
    Part(5, lambda chance: math.exp(chance.uniform(math.log(0.01), math.log(_LONGEST))), backlog=10_000),
    Part(3, lambda _: 0.5, backlog=10_000),
    Part(2, lambda _: _LONGEST, kept=100),
    Part(1, lambda _: 0.01, every=1.0),
)


def run(options: Options) -> int:
    """Measures, prints the line of JSON, gives the exit code: 1 when shares, waits or the limit are not as promised."""
    seconds = 90.0 if options.quick else 300.0
    with mesh() as described:
        tell("fairness: starting the mesh")
        described.up()
        worker = Child("bench.worker", described.scheduler, str(described.agent_certificate))
        try:
            tenants, begun, ended = asyncio.run(_load(described, seconds))
            return _judge(described, tenants, begun, ended)
        finally:
            worker.stop()
            described.down()


async def _load(described: Mesh, seconds: float) -> tuple[Sequence[TenantOfBench], float, float]:
    """Fills the queue, opens it, keeps up what is to wait; gives the tenants and the moments between which it ran."""
    operator: Metadata = (("authorization", f"Bearer {described.token}"),)
    chance = random.Random(1)
    async with grpc.aio.insecure_channel(described.target) as channel:
        queues: queue_grpc.QueueServiceAsyncStub = queue_grpc.QueueServiceStub(channel)
        tasks: task_grpc.SchedulerServiceAsyncStub = task_grpc.SchedulerServiceStub(channel)
        tenants = sorted(await make_tenants(channel, operator, len(PARTS)), key=lambda tenant: tenant.number)
        weights = {tenant.tenant_id: part.weight for tenant, part in zip(tenants, PARTS, strict=True)}
        queue = Queue(queue=_QUEUE, max_running=SLOTS, tenant_weights=weights)
        await queues.CreateQueue(queue_pb.CreateQueueRequest(queue=queue, shared=True), metadata=operator)
        await queues.PauseQueue(queue_pb.PauseQueueRequest(queue=_QUEUE, shared=True), metadata=operator)
        for tenant, part in zip(tenants, PARTS, strict=True):
            await _add(tasks, tenant, part, part.backlog or part.kept, chance)
            tell(f"  {tenant.tenant_id}: weight {part.weight}, {part.backlog or part.kept:,} tasks wait")
        connection = psycopg2.connect(described.database_url)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SET ROLE scheduler_engine")
                await queues.ResumeQueue(queue_pb.ResumeQueueRequest(queue=_QUEUE, shared=True), metadata=operator)
                begun = _now(cursor)
                tell(f"  the queue is open: {SLOTS} slots, for {seconds:.0f} s")
                await _keep_up(cursor, tasks, tenants, chance, time.monotonic() + seconds)
                return tenants, begun, _now(cursor)
        finally:
            connection.close()


async def _keep_up(  # type: ignore[no-untyped-def]
    cursor, tasks: task_grpc.SchedulerServiceAsyncStub, tenants: Sequence[TenantOfBench], chance: random.Random, end: float
) -> None:
    due = dict.fromkeys(range(len(PARTS)), time.monotonic())
    while time.monotonic() < end:
        for number, (tenant, part) in enumerate(zip(tenants, PARTS, strict=True)):
            missing = 0
            if part.kept:
                cursor.execute(_WAITING, (_QUEUE, tenant.tenant_id))
                missing = part.kept - cursor.fetchone()[0]
            elif part.every and time.monotonic() >= due[number]:
                due[number] += part.every
                missing = 1
            if missing > 0:
                await _add(tasks, tenant, part, missing, chance)
        await asyncio.sleep(_TICK)


async def _add(
    tasks: task_grpc.SchedulerServiceAsyncStub, tenant: TenantOfBench, part: Part, number: int, chance: random.Random
) -> None:
    for first in range(0, number, BATCH):
        requests = [_request(part.seconds(chance)) for _ in range(min(BATCH, number - first))]
        await tasks.BatchCreateTasks(BatchCreateTasksRequest(requests=requests), metadata=tenant.metadata)


def _request(seconds: float) -> CreateTaskRequest:
    context = Struct(fields={"payload": Value(string_value=""), "seconds": Value(number_value=seconds)})
    return CreateTaskRequest(task=Task(kind=payload.KIND_OF_ALL, description="bench", queue=_QUEUE, context=context))


def _judge(described: Mesh, tenants: Sequence[TenantOfBench], begun: float, ended: float) -> int:
    with tables(described.database_url, described.superuser_url) as seen:
        attempts = [Ran(*row) for row in seen.rows(_RAN, (_QUEUE,))]
    weights = {tenant.tenant_id: part.weight for tenant, part in zip(tenants, PARTS, strict=True) if not part.every}
    (small,) = (tenant.tenant_id for tenant, part in zip(tenants, PARTS, strict=True) if part.every)
    waits = [ran.started - ran.created for ran in attempts if ran.tenant == small]
    if len(waits) < (ended - begun) * 0.9:
        raise BenchFailed(f"the small tenant had only {len(waits)} tasks started")
    worst = worst_window(attempts, weights, begun + _SETTLED, ended, _MINUTE)
    most = _most_at_once(attempts)
    line = {
        "worst_minute_points": round(worst, 2),
        "whole_run_points": round(share_error(attempts, weights, begun, ended), 2),
        "small_p50_ms": round(percentile(waits, 0.5) * 1000),
        "small_p99_ms": round(percentile(waits, 0.99) * 1000),
        "most_at_once": most,
        "started": len(attempts),
        "seconds": round(ended - begun),
        "load_before": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(line), flush=True)
    good = worst <= _POINTS and percentile(waits, 0.99) < 2 * _LONGEST and most <= SLOTS
    tell(f"  shares within {worst:.1f} points in any minute; the small tenant's p99 wait {line['small_p99_ms']} ms")
    return 0 if good else 1


def _most_at_once(attempts: Sequence[Ran]) -> int:
    changes = sorted([(ran.started, 1) for ran in attempts] + [(ran.ended, -1) for ran in attempts])
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most


def _now(cursor) -> float:  # type: ignore[no-untyped-def]
    cursor.execute(_NOW)
    return float(cursor.fetchone()[0])
