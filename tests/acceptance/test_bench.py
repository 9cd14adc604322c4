"""What a benchmark makes in a mesh, it can make again: a whole run measures ours twice in one."""

from __future__ import annotations

import random

import grpc
import pytest
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc

from bench.tenants import BATCH, batch_of, make_queues, make_tenants
from tests.support.mesh import RunningMesh

pytestmark = pytest.mark.acceptance


async def test_tenants_and_queues_are_made_twice_and_take_tasks(mesh: RunningMesh) -> None:
    mesh.wait_healthy()
    operator = (("authorization", f"Bearer {mesh.token()}"),)
    seen: set[str] = set()
    async with grpc.aio.insecure_channel(mesh.grpc_target) as channel:
        scheduler: pb_grpc.SchedulerServiceAsyncStub = pb_grpc.SchedulerServiceStub(channel)
        for _ in range(2):
            [tenant] = await make_tenants(channel, operator, 1)
            queues = await make_queues(channel, operator, [tenant.tenant_id], 2)
            assert not seen & {tenant.tenant_id, *queues}
            seen |= {tenant.tenant_id, *queues}
            batch = batch_of(tenant, queues, {"payload": "x"}, random.Random(1))
            made = await scheduler.BatchCreateTasks(batch, metadata=tenant.metadata)
            assert len([result.task_id for result in made.results if result.task_id]) == BATCH
