"""kill -9 of the scheduler, and the loss of workers, in the middle of a graph: each task runs after all that it depends on."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_graph_pb2, task_pb2
from guildmesh_client.worker import Task, Worker

from services.embedded.data_check import check_data
from tests.integration.scheduler.conftest import MakeSettings, unique
from tests.integration.scheduler.test_kills import ADA, Mesh, mesh, query, until
from tests.integration.scheduler.test_relay import MakeRelay, own_settings, relay_settings
from tests.support.service import metadata

__all__ = ["MakeRelay", "mesh", "own_settings", "relay_settings"]

NODES = 1000
LAYER = 40
pytestmark = pytest.mark.timeout(180)


def graph(mesh: Mesh, chance: random.Random) -> pb.CreateTaskGraphRequest:
    """Layers of nodes, each of which waits for some of the layer before."""
    request = pb.CreateTaskGraphRequest(request_id=unique("graph"))
    for number in range(NODES):
        node = request.nodes.add(key=str(number), task=task_pb2.Task(description=str(number), kind=mesh.kind, max_attempts=20))
        layer = number - number % LAYER
        for each in chance.sample(range(layer - LAYER, layer), chance.randint(1, 4)) if layer else ():
            node.dependencies.append(task_graph_pb2.TaskGraphEdge(key=str(each)))
    return request


async def create(mesh: Mesh, request: pb.CreateTaskGraphRequest) -> dict[str, str]:
    """The ids by key, asked for with the same request id until it is answered."""
    while True:
        try:
            response = await mesh.stub.CreateTaskGraph(request, metadata=metadata(ADA), timeout=10)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
            await asyncio.sleep(0.1)
            continue
        return {result.key: result.task_id for result in response.results}


@contextlib.asynccontextmanager
async def working(mesh: Mesh) -> AsyncIterator[asyncio.Task[None]]:
    """A worker that tells of each task its name and those that it was handed."""
    worker = Worker(channel=mesh.channel, metadata=metadata(ADA), concurrency=20)

    @worker.task(mesh.kind)
    async def run(task: Task) -> Any:
        await asyncio.sleep(0.01)
        return {"of": task.description, "from": sorted(each.result["of"] for each in task.dependencies.values())}  # type: ignore[index, call-overload]

    running = asyncio.create_task(worker.run())
    try:
        yield running
    finally:
        worker.stop()
        async with asyncio.timeout(20):
            await asyncio.gather(running, return_exceptions=True)


async def test_a_graph_whose_scheduler_and_workers_are_killed_is_worked_off_in_order(
    mesh: Mesh,
    own_settings: MakeSettings,
) -> None:
    settings = own_settings()
    request = graph(mesh, random.Random(7))
    ids = await create(mesh, request)
    done = "SELECT count(*) >= {} FROM scheduler.finished_tasks WHERE state = 3"
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(working(mesh))
        await stack.enter_async_context(working(mesh))
        for share in (0.1, 0.3, 0.6):
            wanted = done.format(int(NODES * share))
            await until(lambda wanted=wanted: query(settings, wanted) == [(True,)], 60, mesh.scheduler.tail)  # type: ignore[misc]
            await mesh.scheduler.kill()
            # The worker is gone as well, without a word: what it ran comes back when its leases end.
            first.cancel()
            await mesh.scheduler.start()
        assert await create(mesh, request) == ids
        await until(lambda: query(settings, done.format(NODES)) == [(True,)], 90, mesh.scheduler.tail)
    assert query(settings, "SELECT count(*) FROM scheduler.tasks") == [(0,)]
    assert query(settings, "SELECT count(*) FROM scheduler.task_dependencies") == [(0,)]
    times = {
        task_id: (start, end)
        for task_id, start, end in query(settings, "SELECT task_id::text, start_time, finish_time FROM scheduler.finished_tasks")
    }
    assert set(times) == set(ids.values())
    for node in request.nodes:
        assert all(times[ids[edge.key]][1] <= times[ids[node.key]][0] for edge in node.dependencies), node.key
        task = await mesh.stub.GetTask(pb.GetTaskRequest(task_id=ids[node.key]), metadata=metadata(ADA))
        fields = task.result.struct_value.fields
        assert [each.string_value for each in fields["from"].list_value.values] == sorted(edge.key for edge in node.dependencies)
    found = check_data(settings.database_url.get_secret_value())
    assert [problem for finding in found for problem in finding.problems] == []
