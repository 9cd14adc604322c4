"""CreateTask and SubmitTask: keeps a task durably."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.common.errors import DomainError
from services.scheduler.domain.ports import TaskBatches
from services.scheduler.domain.task import NewTask, Task
from services.scheduler.usecases.group_commit import GroupCommit
from services.scheduler.usecases.queues import QueuePriorities


class CreateTask:
    """Creates tasks; those that arrive while a commit is under way share the next."""

    def __init__(self, batches: TaskBatches, queues: QueuePriorities) -> None:
        self._queues = queues
        self._batches = batches
        self._commits: GroupCommit[NewTask, Task] = GroupCommit(self._flush, weigh=_weight)

    async def execute(self, task: NewTask) -> Task:
        """Creates the task; a repeat with the same request id and payload gives the first answer.

        Raises:
            QueueNotFound, TaskNotFound (of the parent), ParentTaskEnded, StaleAttempt, RequestIdReused.
        """
        priority = await self._queues.of(task.tenant_id, task.queue)
        return await self._commits.submit(replace(task, queue_priority=priority))

    async def drained(self) -> None:
        """Waits until every create has its answer."""
        await self._commits.drained()

    async def _flush(self, tasks: Sequence[NewTask]) -> Sequence[Task | DomainError]:
        return await self._batches.create(tasks)


def _weight(task: NewTask) -> int:
    return len(task.description) + len(task.context or b"")
