"""CreateTaskGraph: keeps tasks that wait for each other, all or none."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.errors import DomainError
from services.scheduler.domain.ports import GraphStore
from services.scheduler.domain.task_graph import NewGraph, of_node
from services.scheduler.usecases.conflicts import past_conflicts
from services.scheduler.usecases.queues import Queues, put_in


class CreateTaskGraph:
    """Creates graphs. Each is a transaction of its own, so that it is whole, and keeps no other task waiting."""

    def __init__(self, store: GraphStore, queues: Queues) -> None:
        self._store = store
        self._queues = queues

    async def execute(self, graph: NewGraph) -> Sequence[str]:
        """Creates the tasks and gives their ids in order; a repeat with the same request id and payload gives the first answer.

        Raises:
            RequestIdReused: the request id was used with another payload.
            DomainError: what CreateTask raises for one of its nodes, with the node's key.
        """
        for key, task in zip(graph.keys, graph.tasks, strict=True):
            try:
                put_in(task, await self._queues.of(task.tenant_id, task.queue))
            except DomainError as error:
                raise of_node(error, key) from None
        return await past_conflicts(lambda: self._store.create(graph))
