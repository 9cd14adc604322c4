"""New tasks that start in the moment they are created, of queues for which this process decides.

What is decided here is charged and counted at once, so that the next decision knows of it, and given back when it does not come
about.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from services.common.errors import DomainError
from services.scheduler.domain.fence import Fence
from services.scheduler.domain.head import Head, LaneKey
from services.scheduler.domain.task import NewTask, State, Task
from services.scheduler.usecases import dispatch_metrics as metrics
from services.scheduler.usecases.decide_starts import DecideStarts


class NewStarts:
    """The starts of one batch of new tasks."""

    def __init__(self, decide: DecideStarts, fence: Fence | None) -> None:
        """`fence` is by what `decide` decides now; None when it does not, or when none is to start."""
        self._decide = decide
        self._fence = fence
        self._concerned = False
        self._heads: dict[int, Head] = {}

    @property
    def fence(self) -> Fence | None:
        """By what they are decided; None for a batch of which nothing is, and while this process does not decide."""
        return self._fence if self._concerned else None

    def concern(self) -> None:
        """Something in the batch is decided on."""
        self._concerned = True

    def begin(self, place: int, task: NewTask, queue_tenant: str) -> bool:
        """Decides whether the task at a place of the batch starts at once."""
        if self._fence is None:
            return False
        lane = LaneKey(queue_tenant, task.queue, task.tenant_id, task.kind)
        head = self._decide.begin_new(lane, task.task_id, task.concurrency_key, task.priority)
        if head is None:
            return False
        self._heads[place] = head
        task.queue_tenant = queue_tenant
        return True

    @property
    def places(self) -> Collection[int]:
        """The places of those that start at once."""
        return list(self._heads)

    def settle(self, tasks: Sequence[NewTask], answers: Sequence[Task | DomainError], without: Collection[int]) -> None:
        """The tasks were created; all have started but those at the places `without`."""
        self._give_back(without)
        if self.fence is not None:
            self._decide.add_new(_waiting(tasks, answers))
        if self._heads:
            metrics.starts.labels("created").inc(len(self._heads))
            for head in self._heads.values():
                head.uncommitted = False
            self._heads.clear()

    def refused(self) -> None:
        """None started, because what they were decided by is over; they are created without."""
        self.failed()
        self._fence = None
        self._decide.look_again()

    def failed(self) -> None:
        """Nothing was created, for certain."""
        self._give_back(list(self._heads))

    def doubt(self) -> None:
        """Whether they were created is not known."""
        self._heads.clear()
        if self.fence is not None:
            self._decide.doubt()

    def _give_back(self, places: Collection[int]) -> None:
        for place in places:
            if (head := self._heads.pop(place, None)) is not None:
                self._decide.give_back(head)


def _waiting(tasks: Sequence[NewTask], answers: Sequence[Task | DomainError]) -> Iterator[Head]:
    """Those of the created tasks that wait, and are decided on."""
    for task, answer in zip(tasks, answers, strict=True):
        run = task.run
        if run is None or run.state is not State.PENDING or run.queue_tenant is None:
            continue
        if isinstance(answer, Task) and answer.task_id == task.task_id:
            lane = LaneKey(run.queue_tenant, task.queue, task.tenant_id, task.kind)
            yield Head(task.task_id, lane, task.concurrency_key, (-task.priority, run.position), 0)
