"""CreateTask, SubmitTask and BatchCreateTasks: keeps tasks durably."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from services.common.errors import DomainError
from services.scheduler.domain.fence import EpochOver, LimitsChanged
from services.scheduler.domain.ports import TaskBatches
from services.scheduler.domain.queue import Queue
from services.scheduler.domain.task import Lease, NewTask, Task
from services.scheduler.usecases.dispatch import Dispatcher
from services.scheduler.usecases.group_commit import GroupCommit
from services.scheduler.usecases.new_starts import NewStarts
from services.scheduler.usecases.offer_slots import Taker
from services.scheduler.usecases.queues import Queues, put_in

_MOST_FENCED = 4 << 20
"""bytes of a batch that may hold the fence: who changes a queue, or takes over, waits for it."""


class CreateTask:
    """Creates tasks; those that arrive while a commit is under way share the next."""

    def __init__(self, batches: TaskBatches, queues: Queues, dispatcher: Dispatcher) -> None:
        self._queues = queues
        self._batches = batches
        self._dispatcher = dispatcher
        self._commits: GroupCommit[NewTask, Task] = GroupCommit(self._flush, weigh=_weight, abreast=2)

    async def execute(self, task: NewTask) -> Task:
        """Creates the task; a repeat with the same request id and payload gives the first answer.

        Raises:
            QueueNotFound, TaskNotFound (of the parent), ParentTaskEnded, StaleAttempt, RequestIdReused, UserErased; in a queue
            that encrypts events EventKeysNotSet, EventKeySealed.
        """
        put_in(task, await self._queues.of(task.tenant_id, task.queue))
        return await self._commits.submit(task)

    async def execute_all(self, tasks: Sequence[NewTask]) -> Sequence[Task | Exception]:
        """Creates each task of one tenant as `execute` does; gives what that would give or raise, in order."""
        queues: dict[str, Queue | DomainError] = {}
        for name in {task.queue for task in tasks}:
            try:
                queues[name] = await self._queues.of(tasks[0].tenant_id, name)
            except DomainError as error:
                queues[name] = error
        kept = []
        for task in tasks:
            queue = queues[task.queue]
            if isinstance(queue, Queue):
                put_in(task, queue)
                kept.append(task)
        created = iter(await self._commits.submit_all(kept) if kept else ())
        answers: list[Task | Exception] = []
        for task in tasks:
            queue = queues[task.queue]
            answers.append(next(created) if isinstance(queue, Queue) else queue)
        return answers

    async def drained(self) -> None:
        """Waits until every create has its answer."""
        await self._commits.drained()

    async def _flush(self, tasks: Sequence[NewTask]) -> Sequence[Task | DomainError]:
        """Creates the tasks, those that a worker waits for as that worker's."""
        for task in tasks:
            task.queue_tenant = None
        claims = self._dispatcher.claim(tasks, decided=sum(map(_weight, tasks)) <= _MOST_FENCED)
        takers, starts = claims.takers, claims.starts
        for place, task in enumerate(tasks):
            task.worker_id = takers[place].worker_id if place in takers else None
        answers: Sequence[Task | DomainError] = ()
        doubt = True
        try:
            answers = await self._create(tasks, starts)
            return answers
        except DomainError:
            # The database was away, and may have committed.
            raise
        except Exception:
            doubt = False
            raise
        finally:
            claims.settle(created=bool(answers))
            unspent = self._settle(tasks, takers, answers)
            if answers:
                starts.settle(tasks, answers, unspent)
            elif doubt:
                starts.doubt()
            else:
                starts.failed()

    async def _create(self, tasks: Sequence[NewTask], starts: NewStarts) -> Sequence[Task | DomainError]:
        if starts.fence is None:
            return await self._batches.create(tasks)
        try:
            return await self._batches.create(tasks, starts.fence)
        except (EpochOver, LimitsChanged):
            for place in starts.places:
                tasks[place].worker_id = None
            starts.refused()
            return await self._batches.create(tasks)

    def _settle(self, tasks: Sequence[NewTask], takers: Mapping[int, Taker], answers: Sequence[Task | DomainError]) -> list[int]:
        """Hands on what was created for a worker; gives back claims for what was not created now, and tells their places."""
        leases: dict[Taker, list[Lease]] = {}
        unspent: list[int] = []
        for place, taker in takers.items():
            answer, task = answers[place] if answers else None, tasks[place]
            # A claim is void when it turned out that one replica decides on the task.
            if (
                isinstance(answer, Task)
                and answer.task_id == task.task_id
                and task.run is not None
                and task.worker_id is not None
            ):
                # It was started in the moment it was created.
                remaining = task.run.remaining(answer.create_time)
                leases.setdefault(taker, []).append(Lease(task.run, task.spec, task.context, answer.create_time, remaining))
            else:
                unspent.append(place)
        for taker, mine in leases.items():
            taker.take(mine)
        for taker, credits in Counter(takers[place] for place in unspent).items():
            taker.release(credits)
        return unspent


def _weight(task: NewTask) -> int:
    return len(task.spec) + len(task.context or b"")
