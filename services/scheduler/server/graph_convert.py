"""Between the messages of CreateTaskGraph and the domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guildmesh.scheduler.v1 import scheduler_service_pb2 as service_pb
from guildmesh.scheduler.v1 import task_graph_pb2 as pb
from guildmesh.scheduler.v1 import task_pb2

from services.common.errors import InvalidRequest
from services.common.ids import new_id
from services.common.validation import validate_each
from services.scheduler.domain.dependency import MOST_DEPENDENCIES, Dependency, FailurePolicy
from services.scheduler.domain.task import NewTask
from services.scheduler.domain.task_graph import Edge, NewGraph, check_keys, id_after, ranks_of
from services.scheduler.server.convert import new_task
from services.scheduler.server.dependency_convert import check_unique


def new_graph(request: service_pb.CreateTaskGraphRequest, tenant_id: str, subject: str, traceparent: str) -> NewGraph:
    """The graph of CreateTaskGraph; changes the request, which is the caller's no more.

    Raises:
        InvalidRequest: a node breaks a rule; it is named.
        DuplicateNodeKey, UnknownNodeKey, SelfDependency, DependencyCycle: the nodes are no graph without cycles.
    """
    for place, (node, error) in enumerate(zip(request.nodes, validate_each(request, "nodes"), strict=True)):
        if error is not None:
            raise _of_node(place, node.key, error)
    check_keys([node.key for node in request.nodes])
    edges = {node.key: [_edge(edge) for edge in node.dependencies] for node in request.nodes}
    ranks = ranks_of(edges)
    first_id = new_id()
    ids = {key: id_after(first_id, rank) for key, rank in zip(edges, ranks, strict=True)}
    needed = {edge.key for each in edges.values() for edge in each}
    tasks = []
    for place, node in enumerate(request.nodes):
        create = service_pb.CreateTaskRequest(request_id=request.request_id, parent_attempt=node.parent_attempt)
        create.task.CopyFrom(node.task)
        try:
            task = new_task(create, tenant_id, subject, traceparent, ids[node.key])
            _depend(task, edges[node.key], ids)
        except InvalidRequest as error:
            raise _of_node(place, node.key, error) from None
        # It is the graph's.
        task.request_id = ""
        task.has_dependants = node.key in needed
        tasks.append(task)
    return NewGraph(tenant_id, request.request_id, tasks, ranks, edges)


def _edge(edge: pb.TaskGraphEdge) -> Edge:
    return Edge(edge.key, edge.name or edge.key, FailurePolicy(edge.failure_policy or FailurePolicy.FAIL))


def _depend(task: NewTask, edges: Sequence[Edge], ids: Mapping[str, str]) -> None:
    """Has a task depend on those of its edges, besides what it depends on already."""
    if not edges:
        return
    more = [Dependency(ids[edge.key], edge.name, edge.policy) for edge in edges]
    task.dependencies += tuple(more)
    if len(task.dependencies) > MOST_DEPENDENCIES:
        raise InvalidRequest([("dependencies", f"must be at most {MOST_DEPENDENCIES}, with those of the task")])
    check_unique("dependencies", task.dependencies)
    # What comes later in an encoding is added to a repeated field.
    told = (
        task_pb2.TaskDependency(
            task_id=each.task_id,
            name=each.name,
            failure_policy=task_pb2.DependencyFailurePolicy.ValueType(each.policy),
        )
        for each in more
    )
    task.spec += task_pb2.Task(dependencies=told).SerializeToString()


def _of_node(place: int, key: str, error: InvalidRequest) -> InvalidRequest:
    violations = [(f"nodes[{place}]{'.' if name else ''}{name}", text) for name, text in error.violations]
    named = InvalidRequest(violations)
    if key:
        named.message = f"Node {key!r}: {named.message}"
        named.metadata["node"] = key
    return named
