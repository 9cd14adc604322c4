"""Moves of graphs: tasks that are created together, wait for each other and perhaps for one that was there before."""

from __future__ import annotations

import pytest
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb

from services.scheduler.domain.dependency import FailurePolicy
from services.scheduler.domain.errors import RequestIdReused
from services.scheduler.domain.task import State
from services.scheduler.domain.task_graph import NewGraph
from services.scheduler.server.graph_convert import new_graph
from services.scheduler.usecases.queues import put_in
from tests.integration.scheduler.task_life.model import TENANT, Model
from tests.integration.scheduler.task_life.task_moves import TaskMoves
from tests.integration.scheduler.task_life.world import RETENTION_DAYS

_PRIORITY, _ATTEMPTS = 2, 2
Shape = tuple[int, int, int, str]
"""how many nodes, how far back each looks for one to wait for, which failure policies, and what the first waits for."""


class GraphMoves(TaskMoves):
    """What is created together."""

    graphs: dict[str, tuple[Shape, list[str]]]

    def create_graph(self, request: str, shape: Shape) -> None:
        """All of a graph, or what was made of it before."""
        graph = self._graph(request, shape)
        creating = self.world.graphs.create(graph)
        known = self.graphs.get(request)
        if known is not None and known[0] != shape:
            with pytest.raises(RequestIdReused):
                self.world.do(creating)
            return
        ids = list(self.world.do(creating))
        if known is not None:
            assert ids == known[1]
            self.world.seen["graph before"] += 1
            return
        if request:
            self.graphs[request] = shape, ids
        self.world.seen["graph"] += 1
        self._keep(ids, shape)

    def _graph(self, request: str, shape: Shape) -> NewGraph:
        number, back, policies, upstream = shape
        message = pb.CreateTaskGraphRequest(request_id=f"{self.kind}-{request}" if request else "")
        queue = self.queues[number % 2]
        for place in range(number):
            node = message.nodes.add(key=f"n{place}")
            needs = [(upstream, _policy(policies, 0))] if upstream and not place else []
            node.task.CopyFrom(self.message(_PRIORITY, _ATTEMPTS, "node", needs=needs, queue=queue))
            for each in _waits_for(place, back):
                node.dependencies.add(key=f"n{each}", failure_policy=_policy(policies, place))
        if back == 1:
            # Nobody has to name first what others wait for.
            message.nodes.reverse()
        graph = new_graph(message, TENANT, "ada", "")
        for task in graph.tasks:
            put_in(task, queue.row(RETENTION_DAYS))
        return graph

    def _keep(self, ids: list[str], shape: Shape) -> None:
        number, back, policies, upstream = shape
        queue = self.queues[number % 2]
        models = [self.keep(task_id, _PRIORITY, _ATTEMPTS, queue=queue) for task_id in ids]
        nodes = models[::-1] if back == 1 else models
        for place, model in enumerate(nodes):
            needs = [nodes[each].task_id for each in _waits_for(place, back)]
            needs += [upstream] if upstream and not place else []
            if needs:
                model.state, model.policy, model.needs = State.BLOCKED, _policy(policies, place), dict.fromkeys(needs)
        before: Model | None = self.models.get(upstream)
        if before is not None and before.state.ended:
            nodes[0].hears(upstream, before.state)
            if nodes[0].state.ended:
                self.cascade([nodes[0]])


def _waits_for(place: int, back: int) -> list[int]:
    """The nodes before that a node waits for: up to two."""
    return sorted({max(0, place - 1), max(0, place - back)}) if place else []


def _policy(policies: int, place: int) -> FailurePolicy:
    return FailurePolicy(1 + (policies + place) % 3)
