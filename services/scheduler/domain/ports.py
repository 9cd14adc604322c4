"""What the use cases need from storage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Protocol

from services.common.errors import DomainError
from services.scheduler.domain.dead_letter import DeadLetter, LetterPage, LetterPlace, Replays
from services.scheduler.domain.dead_letter_filter import Conditions
from services.scheduler.domain.fence import Fence
from services.scheduler.domain.queue import Queue
from services.scheduler.domain.schedule import Schedule
from services.scheduler.domain.task import Lease, NewTask, State, StoredEvent, Task
from services.scheduler.domain.task_filter import Condition, TaskFilter
from services.scheduler.domain.task_graph import NewGraph
from services.scheduler.domain.told import Told
from services.scheduler.domain.worker import Heartbeat, Refusal, Report


@dataclass(frozen=True, slots=True)
class Demand:
    """Which tasks a group of workers takes."""

    tenant_id: str | None
    """None for every tenant."""
    kinds: frozenset[str]
    queues: frozenset[str]
    """empty for every queue."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a list of tasks: everything before it was listed."""

    task_id: str
    finish_time: datetime | None = None
    """given in a list by finish_time."""


@dataclass(frozen=True, slots=True)
class TaskPage:
    """A part of a list of tasks."""

    tasks: Sequence[Task]
    next: Place | None
    """where the next part begins; None when this is the last."""


class TaskReader(Protocol):
    """Reads for one tenant, under its row security."""

    async def get(self, tenant_id: str, task_id: str) -> Task | None:
        """The task, or None."""

    async def list(self, tenant_id: str, wanted: TaskFilter, after: Place | None, limit: int) -> TaskPage:
        """At most `limit` tasks without context and result, from a place on, or from the beginning.

        Where few tasks meet the filter it may be fewer, or none, with more to come: what is looked at for a page is limited.
        """

    async def events(
        self, tenant_id: str, task_id: str, after: int, limit: int
    ) -> tuple[State | None, int, Sequence[StoredEvent]]:
        """State (None: no such task), number of the newest event, and at most `limit` events after `after` in order.

        The events are at least as new as the state, so a reader that has all of them for an ended task has everything.
        """

    async def meeting(self, tenant_id: str, task_ids: Collection[str], conditions: Sequence[Condition]) -> Collection[str]:
        """Those of these tasks that are kept and meet conditions on labels, created_by and the like."""

    async def whole(self, tenant_id: str, events: Collection[tuple[str, int]]) -> Mapping[tuple[str, int], bytes]:
        """These events (task and number) with all of their texts, serialized; none of a task that is no longer kept."""


class TaskCanceller(Protocol):
    """Cancels for one tenant."""

    async def cancel(self, tenant_id: str, task_id: str, cause: str, actor: str) -> Task:
        """Cancels a task and what is left of its subtasks in one transaction.

        Raises:
            TaskNotFound: the tenant has no such task.
            TaskNotCancellable: it has ended.
        """


class TaskSignaller(Protocol):
    """Signals for one tenant."""

    async def signal(self, tenant_id: str, task_id: str, signal: str, value: bytes, actor: str) -> Task:
        """Keeps a signal of a task in one transaction, and makes a task that waits for it PENDING; the same one may come again.

        Raises:
            TaskNotFound: the tenant has no such task.
            TaskEnded: it has ended.
            SignalAlreadySent: it has another value for it.
            TooManySignals: it has as many signals and steps as it can hold.
        """


class GraphStore(Protocol):
    """Graphs of tasks of one tenant, under its row security."""

    async def create(self, graph: NewGraph) -> Sequence[str]:
        """Creates all tasks of a graph in one transaction, or none; gives their ids in order.

        A repeat with the same request id and payload gives the ids of the first call.

        Raises:
            RequestIdReused: the request id was used with another payload.
            DomainError: what CreateTask raises for one of its nodes, with the node's key.
        """


class TaskBatches(Protocol):
    """Statements over many tasks of any tenants, each one transaction."""

    async def create(self, tasks: Sequence[NewTask], fence: Fence | None = None) -> Sequence[Task | DomainError]:
        """Creates tasks with their first events; gives each its own answer, in order.

        With `fence` those start at once that have a worker and whose queue is decided on.

        Raises:
            EpochOver, LimitsChanged: by what that was decided is over; nothing is created.
        """

    async def lease(self, demand: Demand, workers: Sequence[str]) -> Sequence[Lease]:
        """Starts at most one waiting task for each entry of `workers`, in order of priority; gives them in order of entry."""

    async def report(self, reports: Sequence[Report]) -> Sequence[Refusal | None]:
        """Handles reports in order; gives each its refusal, or None when it is durable."""

    async def append(self, items: Sequence[Told]) -> Sequence[int | Refusal]:
        """Numbers events that other services tell of, in order; gives each its number, or why it has none."""

    async def tell_parents(self) -> int:
        """Makes events of some of what subtasks have left for their parents; 0 when nothing is left."""

    async def heartbeat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[str]:
        """Renews leases; gives each "" or the reason why the attempt must stop."""

    async def make_ready(self) -> timedelta | None:
        """Makes a batch of SCHEDULED tasks PENDING that are due; how long until the next is, None when there is none."""

    async def sweep(self) -> int:
        """Ends what timed out and gives back what lost its worker; the number of tasks changed, 0 when there is no more."""

    async def look_ahead(self) -> None:
        """Keeps leases from looking where nothing waits; to be called every now and then."""

    async def count(self) -> dict[tuple[str, State], int]:
        """The number of tasks by queue and state."""

    async def sum_up_counts(self) -> None:
        """Keeps counting cheap; to be called every now and then."""


class WhoDecides(Protocol):
    """For which queues one replica decides what starts."""

    def tenant_of(self, tenant_id: str, queue: str) -> str | None:
        """The tenant (* for all) of the queue that a tenant's tasks wait in, when one replica decides for it; else None."""


class Progress(IntEnum):
    """What a step towards the end of kept tasks came to."""

    NOTHING = 0
    """nothing is on its way out, or another process sees to it."""
    WAITING = 1
    """Kafka has not acknowledged the tombstones yet."""
    MOVED = 2
    """something was done."""


class TaskPartitions(Protocol):
    """Where ended tasks are kept, by time and by how long they are."""

    async def add(self) -> int:
        """Makes the partitions that will be needed soon; gives how many.

        Raises:
            ConcurrentChange: somebody has the table; to be tried again.
        """

    async def detach(self) -> str | None:
        """Takes one partition out, whose tasks were all kept long enough; gives its name. Nobody sees them from then on.

        Raises:
            ConcurrentChange: somebody has the table; to be tried again.
        """


class TaskExpiry(Protocol):
    """The end of tasks that were kept long enough, each after its tombstone is on Kafka."""

    async def expire_partition(self) -> Progress:
        """Takes one step with a partition that was taken out."""

    async def expire_rest(self) -> Progress:
        """Takes one step with the tasks that are in no partition of their time."""


class MakeTask(Protocol):
    """Makes the task of a run, of the schedule's template."""

    def __call__(self, schedule: Schedule, time: datetime | None, created_by: str, request_id: str) -> NewTask:
        """The task of the run of `time`, None for a run of no time of cron's; raises when the template cannot be read."""


class ScheduleStore(Protocol):
    """Schedules of one tenant, under its row security."""

    async def create(self, schedule: Schedule) -> Schedule:
        """Keeps a new schedule, whose next run it decides on by the database's time.

        Raises:
            ScheduleExists: the tenant has one with this id.
        """

    async def get(self, tenant_id: str, schedule_id: str) -> Schedule | None:
        """The schedule, or None."""

    async def list(self, tenant_id: str, after: str, limit: int) -> Sequence[Schedule]:
        """At most `limit` schedules whose ids come after `after`, in their order, without the context of their tasks."""

    async def change(self, tenant_id: str, schedule_id: str, change: Callable[[Schedule, datetime], None]) -> Schedule:
        """Applies a change, which is given the database's time, while nobody else changes the schedule; what it raises is raised.

        Raises:
            ScheduleNotFound: the tenant has no such schedule.
        """

    async def delete(self, tenant_id: str, schedule_id: str, etag: str) -> None:
        """Deletes it; raises ScheduleNotFound, or EtagMismatch unless the etag is empty or its own."""

    async def start(
        self, tenant_id: str, schedule_id: str, runs: Callable[[Schedule, datetime], Sequence[NewTask]]
    ) -> Sequence[Task]:
        """Starts the runs that are given for the schedule and the database's time; all in one transaction, or none.

        Raises:
            ScheduleNotFound: the tenant has no such schedule.
            QueueNotFound, RequestIdReused: as CreateTask.
        """


@dataclass(frozen=True, slots=True)
class Firing:
    """What a turn of the schedules that are due came to."""

    schedules: int
    """how many there were; there may be more."""
    pause: timedelta | None
    """until the next one is due; None when none is."""


class ScheduleBatches(Protocol):
    """The schedules of all tenants that are due."""

    async def fire(self) -> Firing:
        """Starts runs that are due, in one transaction with what they leave to be done; several replicas may at once."""


class OpenTaskCounts(Protocol):
    """Counts the tasks of every tenant that have not ended."""

    async def count(self) -> Mapping[str, Mapping[tuple[str, State], int]]:
        """For each tenant that has any, their number by queue and state; looks at each of them."""


class QueueReader(Protocol):
    """Reads the queues that a tenant's tasks may wait in."""

    async def queues(self, tenant_id: str) -> Sequence[Queue]:
        """The tenant's own queues and the shared ones whose names it has no queue of, highest priority first."""


class QueueOwners(Protocol):
    """Reads queues by who has them: a tenant, or EVERY_TENANT."""

    async def owners(self) -> Collection[str]:
        """Who has any."""

    async def owned(self, owner: str) -> Sequence[Queue]:
        """The queues of the owner alone."""


class QueueStore(QueueReader, Protocol):
    """Queues, each changed as its owner: a tenant, or EVERY_TENANT. Every replica is told of a change."""

    async def get(self, tenant_id: str, queue: str, *, shared: bool) -> Queue | None:
        """The tenant's own queue or else the shared one; with `shared` that one in any case."""

    async def create(self, queue: Queue) -> Queue:
        """Keeps a new queue for its `tenant_id`.

        Raises:
            QueueExists: the owner has one of this name.
            TooManyQueues: the owner has as many as it may have.
        """

    async def change(self, owner: str, queue: str, change: Callable[[Queue], Queue]) -> Queue:
        """Applies a change while nobody else changes the queue; what it raises is raised.

        Raises:
            QueueNotFound: the owner has no such queue.
        """

    async def delete(self, owner: str, queue: str, etag: str) -> None:
        """Deletes a queue, with an etag only if nobody has changed it since.

        Raises:
            QueueNotFound: the owner has no such queue.
            EtagMismatch: it was changed.
            QueueNotEmpty: a task of it has not ended.
            ConcurrentChange: somebody has the table; to be tried again.
        """


class MakeReplay(Protocol):
    """Makes the task that repeats another one."""

    def __call__(self, task: Task, now: datetime, created_by: str, request_id: str) -> NewTask:
        """The task, whose moments that are over by `now` are left out."""


class DeadLetterStore(Protocol):
    """Dead letters of one tenant, under its row security."""

    async def get(self, tenant_id: str, task_id: str) -> DeadLetter | None:
        """The dead letter; None when there is none, or it was dismissed."""

    async def list(self, tenant_id: str, queue: str, wanted: Conditions, after: LetterPlace | None, limit: int) -> LetterPage:
        """At most `limit` dead letters of a queue, the latest first, from a place on.

        Where few meet the conditions it may be fewer, or none, with more to come: what is looked at for a page is limited.
        """

    async def dismiss(self, tenant_id: str, queue: str, wanted: Conditions, limit: int) -> tuple[int, int]:
        """Dismisses at most `limit`, the oldest first; gives how many, and how many are left, counted up to a limit."""


class TaskReplayer(Protocol):
    """Creates tasks like those that failed, for one tenant, each with what is kept of it in one transaction.

    A replay depends on the replays of what its task depended on, as far as that was replayed.
    """

    async def replay(self, tenant_id: str, task_id: str, subject: str, *, again: bool, request_id: str) -> Task:
        """The task that repeats a failed one; unless `again`, the one that does already.

        Raises:
            TaskNotFound: the tenant has no such task.
            TaskNotFailed: it has not failed.
            ReplayNotKept: it was replayed, and its replay has been kept long enough.
            QueueNotFound: as CreateTask.
        """

    async def replay_many(
        self, tenant_id: str, queue: str, wanted: Conditions, failed_before: datetime | None, limit: int, subject: str
    ) -> Replays:
        """Replays at most `limit` dead letters of a queue that were not, each once, and each behind those that it depends on.

        Only what failed before `failed_before` by the database's clock, which is at the latest the beginning of the call.

        Raises:
            QueueNotFound: as CreateTask.
        """
