"""What tasks wait for: other tasks that are there, and other nodes of a graph that is created at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Unpack

from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import task_graph_pb2

from guildmesh_client.options import OnFailure, TaskOptions, fill, policy_of
from guildmesh_client.worker.json_values import JsonValue, TooLarge


@dataclass(frozen=True, slots=True)
class After:
    """A node of the same graph that another one waits for."""

    key: str
    on_failure: OnFailure = "fail"
    """what becomes of the one that waits when this one fails or is cancelled; continue: it counts as done."""
    name: str = ""
    """by which the worker finds its result; the key when empty."""


@dataclass(slots=True)
class Graph:
    """Tasks that wait for each other, to be created at once by TaskClient.create_graph.

    graph = Graph()
    for page in pages:
        graph.add(f"read {page}", "Read a page.", kind="page.read", context={"page": page})
    graph.add("report", "Write the report.", kind="report.write", after=[f"read {page}" for page in pages])
    """

    nodes: list[task_graph_pb2.TaskGraphNode] = field(default_factory=list)
    large: dict[int, Mapping[str, JsonValue]] = field(default_factory=dict)
    """contexts that have no room in their tasks, by the places of the nodes: TaskClient.create_graph uploads them."""

    def add(
        self,
        key: str,
        description: str,
        *,
        after: Iterable[str | After] = (),
        parent_attempt: int = 0,
        **options: Unpack[TaskOptions],
    ) -> Graph:
        """Adds a task, which waits for those of the keys in `after`; gives the graph.

        Args:
            key: names the node within the graph.
            description: the task text.
            after: keys of nodes to wait for, added before or after this one, or `After` with what a failure does.
            parent_attempt: for a worker that fans out with parent_task_id: the attempt that it runs.
            options: those of TaskClient.create.

        Raises:
            TypeError: there is no such option.
            ValueError: an option is not valid.
        """
        node = task_graph_pb2.TaskGraphNode(key=key, parent_attempt=parent_attempt)
        try:
            fill(node.task, description, options)
        except TooLarge:
            node.ClearField("task")
            rest = TaskOptions(**options)
            large = rest.pop("context") or {}
            fill(node.task, description, rest)
            self.large[len(self.nodes)] = large
        for each in after:
            edge = After(each) if isinstance(each, str) else each
            node.dependencies.add(key=edge.key, name=edge.name, failure_policy=policy_of(edge.on_failure))
        self.nodes.append(node)
        return self

    def request(self, request_id: str) -> pb.CreateTaskGraphRequest:
        """What is sent."""
        return pb.CreateTaskGraphRequest(request_id=request_id, nodes=self.nodes)
