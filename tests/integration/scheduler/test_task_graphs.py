"""CreateTaskGraph: tasks that wait for each other, all or none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_graph_pb2, task_pb2

from services.common.grpcx.status import error_info
from services.scheduler.bootstrap import open_service
from services.scheduler.storage import cascade, sweep_batch
from tests.integration.scheduler.conftest import MakeSettings, Scheduler, completion, unique, value
from tests.support.service import metadata, running

Edges = dict[str, list[str]]


def nodes(scheduler: Scheduler, edges: Edges, **fields: Any) -> list[task_graph_pb2.TaskGraphNode]:
    return [
        task_graph_pb2.TaskGraphNode(
            key=key,
            task=task_pb2.Task(**({"description": key, "kind": scheduler.kind} | fields)),
            dependencies=[task_graph_pb2.TaskGraphEdge(key=each) for each in needed],
        )
        for key, needed in edges.items()
    ]


async def create(
    scheduler: Scheduler, given: list[task_graph_pb2.TaskGraphNode], request_id: str = "", timeout: float = 30
) -> dict[str, str]:
    """The task id of each node."""
    request = pb.CreateTaskGraphRequest(request_id=request_id, nodes=given)
    response = await scheduler.stub.CreateTaskGraph(request, metadata=metadata(scheduler.ada), timeout=timeout)
    assert [result.key for result in response.results] == [node.key for node in given]
    return {result.key: result.task_id for result in response.results}


async def refusal(scheduler: Scheduler, given: list[task_graph_pb2.TaskGraphNode], request_id: str = "") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await create(scheduler, given, request_id)
    return refused.value


async def count(scheduler: Scheduler) -> int:
    page = await scheduler.stub.ListTasks(pb.ListTasksRequest(page_size=200), metadata=metadata(scheduler.ada))
    return len(page.tasks)


DIAMOND: Edges = {"join": ["left", "right"], "left": ["root"], "right": ["root"], "root": []}


async def test_a_graph_is_worked_off_in_the_order_of_its_edges(scheduler: Scheduler) -> None:
    ids = await create(scheduler, nodes(scheduler, DIAMOND))
    order = []
    async with scheduler.worker() as worker:
        for _ in DIAMOND:
            lease = await worker.lease()
            order.append(lease.task.description)
            told = {each.name: each.result for each in lease.dependencies}
            assert told == {name: value(f"of {name}") for name in DIAMOND[lease.task.description]}
            await worker.complete(lease, f"of {lease.task.description}")
    # Those that may start at once are in the order in which they were given.
    assert order == ["root", "left", "right", "join"]
    shown = await scheduler.get(ids["join"])
    assert [(each.task_id, each.name) for each in shown.dependencies] == [(ids["left"], "left"), (ids["right"], "right")]
    assert sorted(ids.values()) == [ids[key] for key in ("root", "left", "right", "join")]


async def test_a_repeat_gives_the_same_tasks_and_another_graph_is_refused(scheduler: Scheduler) -> None:
    request_id = unique("request")
    given = nodes(scheduler, DIAMOND)
    answers = await asyncio.gather(*(create(scheduler, given, request_id) for _ in range(8)))
    assert answers == [answers[0]] * 8
    assert await count(scheduler) == 4
    async with scheduler.worker() as worker:
        for _ in DIAMOND:
            await worker.complete(await worker.lease())
    assert await create(scheduler, given, request_id) == answers[0]
    other = nodes(scheduler, DIAMOND | {"right": []})
    policy = nodes(scheduler, DIAMOND)
    policy[0].dependencies[0].failure_policy = task_pb2.DEPENDENCY_FAILURE_POLICY_CANCEL
    for changed in (other, policy, given[1:] + given[:1]):
        assert error_info(await refusal(scheduler, changed, request_id))[0] == "REQUEST_ID_REUSED"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await scheduler.create("root", request_id=request_id)
    assert error_info(refused.value)[0] == "REQUEST_ID_REUSED"
    single = unique("request")
    await scheduler.create("root", request_id=single)
    assert error_info(await refusal(scheduler, given, single))[0] == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    ("edges", "reason", "info"),
    [
        ({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}, "DEPENDENCY_CYCLE", {"cycle": "a -> b -> c -> a"}),
        ({"a": [], "b": ["x"]}, "UNKNOWN_NODE_KEY", {"node": "b", "dependency": "x"}),
        ({"a": [], "b": ["a", "b"]}, "SELF_DEPENDENCY", {"node": "b"}),
    ],
)
async def test_what_is_no_graph_is_refused(scheduler: Scheduler, edges: Edges, reason: str, info: dict[str, str]) -> None:
    error = await refusal(scheduler, nodes(scheduler, edges))
    assert (error.code(), error_info(error)) == (grpc.StatusCode.INVALID_ARGUMENT, (reason, info))
    assert await count(scheduler) == 0


async def test_a_bad_node_is_named_and_nothing_is_created(scheduler: Scheduler) -> None:
    unknown = "01990000-0000-7000-8000-000000000000"
    for change, code, reason, problem in (
        ({"priority": 11}, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "nodes[1].task.priority"),
        ({"description": ""}, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "nodes[1].task.description"),
        ({"queue": "reserch"}, "NOT_FOUND", "QUEUE_NOT_FOUND", "'reserch'"),
        ({"parent_task_id": unknown}, "NOT_FOUND", "TASK_NOT_FOUND", unknown),
        ({"dependencies": [task_pb2.TaskDependency(task_id=unknown)]}, "NOT_FOUND", "TASK_NOT_FOUND", unknown),
    ):
        given = nodes(scheduler, {"good": [], "bad": ["good"]})
        given[1].task.MergeFrom(task_pb2.Task(**change))
        if not change.get("description", "x"):
            given[1].task.description = ""
        error = await refusal(scheduler, given)
        found = error_info(error)
        assert (error.code().name, found[0], found[1].get("node")) == (code, reason, "bad")
        assert "Node 'bad': " in (error.details() or "")
        assert problem in (error.details() or "")
    twice = nodes(scheduler, {"a": []}) * 2
    assert error_info(await refusal(scheduler, twice)) == ("DUPLICATE_NODE_KEY", {"node": "a"})
    doubled = nodes(scheduler, {"a": [], "b": ["a", "a"]})
    assert "must have each task_id once" in ((await refusal(scheduler, doubled)).details() or "")
    assert await count(scheduler) == 0


async def test_a_worker_fans_out_and_a_stale_one_does_not(scheduler: Scheduler) -> None:
    parent = await scheduler.create("parent", kind=unique("parent"))
    async with scheduler.worker(credits=1, kinds=[parent.kind]) as worker:
        lease = await worker.lease()
        given = nodes(scheduler, {"one": [], "two": [], "join": ["one", "two"]}, parent_task_id=parent.task_id)
        for node in given:
            node.parent_attempt = lease.task.attempt
        ids = await create(scheduler, given)
        await worker.complete(lease)
    # What is left of its subtasks ends with it, those that wait for others as well.
    assert [(await scheduler.get(each)).status for each in ids.values()] == ["cancelled"] * 3
    assert error_info(await refusal(scheduler, given))[0] == "STALE_ATTEMPT"


async def test_nodes_may_depend_on_what_has_failed_already(scheduler: Scheduler) -> None:
    failed = await scheduler.create("failed")
    async with scheduler.worker(credits=1) as worker:
        await worker.fail(await worker.lease(), retryable=False)
    given = nodes(scheduler, {"a": [], "b": ["a"], "c": ["b"]})
    given[0].task.dependencies.add(task_id=failed.task_id)
    given[2].dependencies[0].failure_policy = task_pb2.DEPENDENCY_FAILURE_POLICY_CONTINUE
    ids = await create(scheduler, given)
    assert [(await scheduler.get(each)).status for each in ids.values()] == ["failed", "failed", "pending"]


async def test_a_chain_of_ten_thousand_fails_with_its_first_task(scheduler: Scheduler) -> None:
    chain = {str(number): [str(number - 1)] if number else [] for number in range(10_000)}
    ids = await create(scheduler, nodes(scheduler, chain), timeout=60)
    await scheduler.cancel(ids["0"])
    # As far as one commit goes at once, and the rest right after it.
    assert (await scheduler.get(ids["1999"])).status == "failed"
    assert (await scheduler.watch(ids["9999"]))[-1].failed.reason == "DEPENDENCY_FAILED"
    ended = await scheduler.stub.ListTasks(pb.ListTasksRequest(filter="state = BLOCKED"), metadata=metadata(scheduler.ada))
    assert not ended.tasks


async def test_what_is_too_much_for_one_commit_is_finished_by_the_sweeper(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cascade, "MOST", 7)
    settled = []

    async def settle(*arguments: Any) -> int:
        settled.append(await cascade.settle(*arguments))
        return settled[-1]

    monkeypatch.setattr(sweep_batch, "settle", settle)
    edges: Edges = {"root": []} | {f"wide {number}": ["root"] for number in range(20)}
    edges |= {f"far {number}": [f"wide {number}", "root"] for number in range(20)}
    ids = await create(scheduler, nodes(scheduler, edges))
    well = await create(scheduler, nodes(scheduler, edges))
    await scheduler.cancel(ids["root"])
    for task_id in ids.values():
        assert (await scheduler.watch(task_id))[-1].WhichOneof("change") in ("failed", "cancelled")
    async with scheduler.worker(credits=41) as worker:
        for _ in edges:
            lease = await worker.lease()
            await worker.send(completions=[completion(lease.task.task_id, 1)])
        # The stream is open until the last of them is durable.
        assert {(await scheduler.watch(task_id))[-1].WhichOneof("change") for task_id in well.values()} == {"completed"}
    assert sum(settled) > 5, "nothing was left to the sweeper"


async def test_replicas_that_end_the_dependencies_of_one_task_at_once_start_it_once(
    scheduler_settings: MakeSettings, scheduler_tls: Path
) -> None:
    async with (
        running(open_service, scheduler_settings(), scheduler_tls) as one,
        running(open_service, scheduler_settings(), scheduler_tls) as two,
    ):
        first = Scheduler(one)
        second = Scheduler(two, first.ada)
        second.kind = first.kind
        sources = {f"source {number}": [] for number in range(60)}
        ids = await create(first, nodes(first, sources | {f"join {number}": list(sources) for number in range(5)}))
        async with first.worker(credits=30) as here, second.worker(credits=30) as there:
            leases = [(worker, await worker.lease()) for worker in (here, there) for _ in range(30)]
            await asyncio.gather(*(worker.send(completions=[completion(lease.task.task_id, 1)]) for worker, lease in leases))
            await here.send(credits=5)
            for _ in range(5):
                await here.complete(await here.lease())
        for number in range(5):
            events = await first.watch(ids[f"join {number}"])
            assert [event.WhichOneof("change") for event in events] == ["created", "ready", "started", "completed"]
