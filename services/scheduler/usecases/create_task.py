"""CreateTask, SubmitTask and BatchCreateTasks: keeps tasks durably."""

from __future__ import annotations

from collections.abc import Sequence

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
        task.queue_priority = await self._queues.of(task.tenant_id, task.queue)
        return await self._commits.submit(task)

    async def execute_all(self, tasks: Sequence[NewTask]) -> Sequence[Task | Exception]:
        """Creates each task of one tenant as `execute` does; gives what that would give or raise, in order."""
        answers: dict[int, Task | Exception] = {}
        priorities: dict[str, int | DomainError] = {}
        places = []
        for place, task in enumerate(tasks):
            if task.queue not in priorities:
                try:
                    priorities[task.queue] = await self._queues.of(task.tenant_id, task.queue)
                except DomainError as error:
                    priorities[task.queue] = error
            priority = priorities[task.queue]
            if isinstance(priority, DomainError):
                answers[place] = priority
            else:
                task.queue_priority = priority
                places.append(place)
        if places:
            created = await self._commits.submit_all([tasks[place] for place in places])
            answers |= zip(places, created, strict=True)
        return [answers[place] for place in range(len(tasks))]

    async def drained(self) -> None:
        """Waits until every create has its answer."""
        await self._commits.drained()

    async def _flush(self, tasks: Sequence[NewTask]) -> Sequence[Task | DomainError]:
        return await self._batches.create(tasks)


def _weight(task: NewTask) -> int:
    return len(task.spec) + len(task.context or b"")
