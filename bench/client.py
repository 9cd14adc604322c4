"""The client of a benchmark, a process of its own: `python -m bench.client TARGET`, with the token in GUILDMESH_TOKEN.

It uses the generated stubs against the gateway's port, as a client in any language does, and for single tasks the client library,
which gathers calls that are made at once. Moments are of the machine's
monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable

import grpc
import uvloop
from google.protobuf.struct_pb2 import Struct, Value
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_pb2
from guildmesh_client.tasks import TaskClient

from bench import payload
from bench.child import Answer, serve
from bench.tenants import BATCH, Metadata, TenantOfBench, batch_of, make_queues, make_tenants

BATCHES_IN_FLIGHT = 8
SINGLES_IN_FLIGHT = 100
_COMPLETED = "guildmesh.task.completed.v1"


class Client:
    """Submits tasks and watches them."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        """Speaks through `channel` with the token."""
        self._stub: pb_grpc.SchedulerServiceAsyncStub = pb_grpc.SchedulerServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._tasks = TaskClient(channel, self._metadata)
        self._context = payload.context()
        self._channel = channel
        self._tenants: list[TenantOfBench] = []
        self._queues: list[str] = []
        self._turn = 0
        self._random = random.Random(1)

    async def handle(self, command: Answer) -> Answer:
        """Does what `do` says with up to `tasks` tasks for at most `seconds`.

        `batch` and `single` submit them; `latency` takes one after the other, each by one call that gives its result, and
        `latency_watched` by a call that creates it and one that watches it. `tenants` makes so many of them and the queues that
        have limits, `limited` submits batches of these tenants, by turns, to these queues. `paced` submits as many a second as
        `rate` says, `at_once` so many: 1, a few by as many calls of the client library, or a batch.
        """
        tasks, seconds = int(command["tasks"]), float(command["seconds"])
        if command["do"] == "batch":
            return await self._submit(self._batch, BATCHES_IN_FLIGHT, BATCH, tasks, seconds)
        if command["do"] == "limited":
            return await self._submit(self._limited, BATCHES_IN_FLIGHT, BATCH, tasks, seconds)
        if command["do"] == "tenants":
            self._tenants = await make_tenants(self._channel, self._metadata, tasks)
            self._queues = await make_queues(self._channel, self._metadata, [tenant.tenant_id for tenant in self._tenants])
            return {}
        if command["do"] == "paced":
            at_once = int(command["at_once"])
            return await self._paced(self._batch if at_once == BATCH else self._single, at_once, tasks, float(command["rate"]))
        if command["do"] == "single":
            return await self._submit(self._single, SINGLES_IN_FLIGHT, 1, tasks, seconds)
        return await self._latency(self._watched if command["do"] == "latency_watched" else self._run, tasks, seconds)

    async def _submit(
        self, submit: Callable[[], Awaitable[list[str]]], in_flight: int, size: int, tasks: int, seconds: float
    ) -> Answer:
        ids: list[str] = []
        left = tasks // size
        begun = time.monotonic()

        async def lane() -> None:
            nonlocal left
            while left > 0 and time.monotonic() - begun < seconds:
                left -= 1
                ids.extend(await submit())

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(lane())
        return {"begun": begun, "ended": time.monotonic(), "ids": ids}

    async def _paced(self, submit: Callable[[], Awaitable[list[str]]], size: int, tasks: int, rate: float) -> Answer:
        """Each call at its own moment, whether those before it have been answered or not; late when too many are open."""
        open_calls = asyncio.Semaphore(SINGLES_IN_FLIGHT)
        calls = size if size < BATCH else 1
        ids: list[str] = []

        async def call() -> None:
            try:
                ids.extend(await submit())
            finally:
                open_calls.release()

        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(tasks // size):
                await asyncio.sleep(max(0.0, begun + number * size / rate - time.monotonic()))
                for _ in range(calls):
                    await open_calls.acquire()
                    group.create_task(call())
        return {"begun": begun, "ended": time.monotonic(), "ids": ids}

    async def _batch(self) -> list[str]:
        request = pb.BatchCreateTasksRequest(requests=[self._request() for _ in range(BATCH)])
        return await self._create(request, self._metadata)

    async def _limited(self) -> list[str]:
        tenant = self._tenants[self._turn % len(self._tenants)]
        self._turn += 1
        return await self._create(batch_of(tenant, self._queues, self._context, self._random), tenant.metadata)

    async def _create(self, request: pb.BatchCreateTasksRequest, metadata: Metadata) -> list[str]:
        response = await self._stub.BatchCreateTasks(request, metadata=metadata)
        for result in response.results:
            if not result.task_id:
                raise RuntimeError(f"a task was refused: {result.error.message}")
        return [result.task_id for result in response.results]

    async def _single(self) -> list[str]:
        return [await self._tasks.create("bench", kind=payload.KIND, context=self._context)]

    async def _latency(self, take: Callable[[], Awaitable[str]], tasks: int, seconds: float) -> Answer:
        """The time of each task from the call that submits it until its result is here."""
        expected = payload.echo(self._context["payload"])
        begun = time.monotonic()
        taken: list[float] = []
        while len(taken) < tasks and time.monotonic() - begun < seconds:
            before = time.perf_counter()
            result = await take()
            taken.append(time.perf_counter() - before)
            if result != expected:
                raise RuntimeError("a task ended without its result")
        return {"seconds": taken}

    async def _run(self) -> str:
        task = await self._stub.RunTask(pb.RunTaskRequest(task=self._request().task), metadata=self._metadata)
        return task.result.string_value

    async def _watched(self) -> str:
        task = await self._stub.CreateTask(self._request(), metadata=self._metadata)
        result = ""
        async for event in self._stub.WatchTask(pb.WatchTaskRequest(task_id=task.task_id), metadata=self._metadata):
            if event.type == _COMPLETED:
                result = event.completed.result.string_value
                break
        return result

    def _request(self) -> pb.CreateTaskRequest:
        # Made anew for each task: a client's own work is part of what is measured.
        fields = {name: Value(string_value=value) for name, value in self._context.items()}
        task = task_pb2.Task(kind=payload.KIND, description="bench", context=Struct(fields=fields))
        return pb.CreateTaskRequest(task=task)


async def main(target: str, token: str) -> None:
    """Serves commands until standard input ends."""
    async with grpc.aio.insecure_channel(target) as channel:
        client = Client(channel, token)
        await serve(client.handle)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], os.environ["GUILDMESH_TOKEN"]))
