"""Tenants with a user each, made through the gateway as an operator makes them, and the tasks that they ask for."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.struct_pb2 import Struct, Value
from guildmesh.identity.v1 import identity_service_pb2 as pb
from guildmesh.identity.v1 import identity_service_pb2_grpc as pb_grpc
from guildmesh.identity.v1.user_pb2 import Tenant
from guildmesh.scheduler.v1 import queue_service_pb2 as queue_pb
from guildmesh.scheduler.v1 import queue_service_pb2_grpc as queue_grpc
from guildmesh.scheduler.v1.queue_pb2 import Queue
from guildmesh.scheduler.v1.scheduler_service_pb2 import BatchCreateTasksRequest, CreateTaskRequest
from guildmesh.scheduler.v1.task_pb2 import Task

from bench import payload

QUEUES = 100
TENANTS = 1_000
KEYS_OF_TENANT = 10
WANTED_KEYS = 20
"""keys that tasks of all tenants have, a tenth of all tasks; each is in one queue, as are the others."""
MAX_RUNNING = 50
"""of a queue."""
MAX_RUNNING_PER_KEY = 12
WEIGHTS = (5, 3, 2)
BATCH = 100
_AT_ONCE = 8
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TenantOfBench:
    """A tenant, and what its calls carry."""

    number: int
    tenant_id: str
    metadata: Metadata


async def make_queues(channel: grpc.aio.Channel, operator: Metadata, tenants: Sequence[str], queues: int = QUEUES) -> list[str]:
    """Makes the queues, of every tenant, with limits, priorities and weights; gives their names, which no other run has."""
    stub: queue_grpc.QueueServiceAsyncStub = queue_grpc.QueueServiceStub(channel)
    run = secrets.token_hex(4)
    names = [f"limited-{run}-{number}" for number in range(queues)]
    weights = {tenant: WEIGHTS[number % len(WEIGHTS)] for number, tenant in enumerate(tenants[:100])}

    async def make(number: int) -> None:
        queue = Queue(
            queue=names[number],
            priority=1 + number % 10,
            max_running=MAX_RUNNING,
            max_running_per_key=MAX_RUNNING_PER_KEY,
            tenant_weights=weights,
        )
        await stub.CreateQueue(queue_pb.CreateQueueRequest(queue=queue, shared=True), metadata=operator)

    await _each(make, queues)
    return names


async def make_tenants(channel: grpc.aio.Channel, operator: Metadata, number: int) -> list[TenantOfBench]:
    """Makes tenants with a user each, who has a token; no other run has tenants of these names."""
    stub: pb_grpc.IdentityServiceAsyncStub = pb_grpc.IdentityServiceStub(channel)
    password, run = secrets.token_urlsafe(18), secrets.token_hex(4)
    made: list[TenantOfBench] = []

    async def make(number: int) -> None:
        name = f"bench-{run}-{number}"
        await stub.CreateTenant(pb.CreateTenantRequest(tenant=Tenant(tenant_id=name)), metadata=operator)
        user = pb.CreateUserRequest(username=name, password=password, tenant_id=name)
        await stub.CreateUser(user, metadata=operator)
        token = (await stub.IssueToken(pb.IssueTokenRequest(username=name, password=password))).access_token
        made.append(TenantOfBench(number, name, (("authorization", f"Bearer {token}"),)))

    await _each(make, number)
    return made


def batch_of(
    tenant: TenantOfBench, queues: Sequence[str], context: dict[str, str], chance: random.Random
) -> BatchCreateTasksRequest:
    """A batch of one tenant: any of its keys, sometimes one that many want, any priorities."""
    return BatchCreateTasksRequest(requests=_requests(tenant, queues, context, chance))


def _requests(
    tenant: TenantOfBench, queues: Sequence[str], context: dict[str, str], chance: random.Random
) -> Iterator[CreateTaskRequest]:
    for _ in range(BATCH):
        if chance.random() < 0.1:
            number = chance.randrange(WANTED_KEYS)
            key = f"wanted/{number}"
        else:
            number = tenant.number * KEYS_OF_TENANT + chance.randrange(KEYS_OF_TENANT)
            key = f"{tenant.number}/{number % KEYS_OF_TENANT}"
        fields = {name: Value(string_value=value) for name, value in context.items()}
        yield CreateTaskRequest(
            task=Task(
                kind=payload.KIND_OF_ALL,
                description="bench",
                context=Struct(fields=fields),
                queue=queues[number % len(queues)],
                concurrency_key=key,
                priority=chance.randint(1, 10),
            )
        )


async def _each(make: Callable[[int], Awaitable[None]], number: int) -> None:
    left = iter(range(number))

    async def lane() -> None:
        for each in left:
            await make(each)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(lane())
