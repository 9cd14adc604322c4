"""What a caller may be told, as in guildmesh.scheduler.v1.ErrorReason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.common.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)

DOMAIN = "scheduler.guildmesh.dev"


class TaskNotFound(NotFound):
    """No such task in the caller's tenant."""

    reason = "TASK_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, task_id: str) -> None:
        super().__init__(f"No task {task_id!r}; list your tasks with GET /v1/tasks.", task_id=task_id)


class TaskNotCancellable(FailedPrecondition):
    """The task has ended."""

    reason = "TASK_NOT_CANCELLABLE"
    domain = DOMAIN

    def __init__(self, task_id: str, status: str) -> None:
        super().__init__(f"The task {task_id!r} is {status} and can no longer be cancelled.", task_id=task_id, status=status)


class TaskEnded(FailedPrecondition):
    """The task has ended, and gets no signals."""

    reason = "TASK_ENDED"
    domain = DOMAIN

    def __init__(self, task_id: str, status: str) -> None:
        super().__init__(
            f"The task {task_id!r} is {status}; only a task that has not ended gets signals.", task_id=task_id, status=status
        )


class SignalAlreadySent(AlreadyExists):
    """The task has another value for the signal, or a step of that name."""

    reason = "SIGNAL_ALREADY_SENT"
    domain = DOMAIN

    def __init__(self, signal: str) -> None:
        super().__init__(f"The task has the signal {signal!r} already, with another value; the first one counts.", signal=signal)


class TooManySignals(ResourceExhausted):
    """What a task has been sent, and done, is as much as a worker can be told."""

    reason = "TOO_MANY_SIGNALS"
    domain = DOMAIN

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"The task {task_id!r} has as many signals and steps as it can hold; send references instead of large values.",
            task_id=task_id,
        )


class RequestIdReused(AlreadyExists):
    """The request id was used with another payload."""

    reason = "REQUEST_ID_REUSED"
    domain = DOMAIN

    def __init__(self, request_id: str) -> None:
        super().__init__("The request_id was used for another task; choose a new one.", request_id=request_id)


class DeadlineTooEarly(InvalidArgument):
    """The task could only fail."""

    reason = "DEADLINE_TOO_EARLY"
    domain = DOMAIN

    def __init__(self) -> None:
        super().__init__("The task would have to end before it may start; choose a later deadline or a longer total_timeout.")


class QueueNotFound(NotFound):
    """No such queue."""

    reason = "QUEUE_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, queue: str, known: Iterable[str]) -> None:
        names = ", ".join(sorted(known))
        what = f"the queues are: {names}." if names else "list the queues with GET /v1/queues."
        super().__init__(f"No queue {queue!r}; {what}", queue=queue)


class QueueExists(AlreadyExists):
    """The tenant has a queue of this name."""

    reason = "QUEUE_EXISTS"
    domain = DOMAIN

    def __init__(self, queue: str) -> None:
        super().__init__(
            f"There is a queue {queue!r} already; change it with PATCH /v1/queues/{queue}, or choose another name.", queue=queue
        )


class QueueNotEmpty(FailedPrecondition):
    """A queue with tasks that have not ended cannot be deleted."""

    reason = "QUEUE_NOT_EMPTY"
    domain = DOMAIN

    def __init__(self, queue: str) -> None:
        super().__init__(
            f"The queue {queue!r} has tasks that have not ended; cancel them or wait for their end, then delete it.", queue=queue
        )


class SharedQueue(PermissionDenied):
    """A queue of every tenant is changed by operators only."""

    reason = "SHARED_QUEUE"
    domain = DOMAIN

    def __init__(self, queue: str) -> None:
        super().__init__(
            f"The queue {queue!r} is every tenant's, and changing it needs the role operator; create your own {queue!r} instead,"
            " which takes its place for your tenant.",
            queue=queue,
            roles="operator",
        )


class TooManyQueues(ResourceExhausted):
    """A tenant has as many queues as it may have."""

    reason = "TOO_MANY_QUEUES"
    domain = DOMAIN

    def __init__(self, most: int) -> None:
        super().__init__(f"There are {most} queues already, which is the most; delete one that is not used.", most=str(most))


class TooManySchedules(ResourceExhausted):
    """A tenant has as many schedules as it may have."""

    reason = "TOO_MANY_SCHEDULES"
    domain = DOMAIN

    def __init__(self, most: int) -> None:
        super().__init__(
            f"There are {most} schedules already, which is the most; delete one that is not needed"
            " (DELETE /v1/schedules/{schedule_id}), or ask the operator to raise GUILDMESH_MAX_SCHEDULES.",
            most=str(most),
        )


class ParentTaskEnded(FailedPrecondition):
    """A subtask needs a parent that has not ended."""

    reason = "PARENT_TASK_ENDED"
    domain = DOMAIN

    def __init__(self, parent_task_id: str) -> None:
        super().__init__("The parent task has ended; create the task without a parent.", parent_task_id=parent_task_id)


class StaleAttempt(FailedPrecondition):
    """The attempt was fenced off: its lease ended, or the task did."""

    reason = "STALE_ATTEMPT"
    domain = DOMAIN

    def __init__(self, task_id: str, attempt: int) -> None:
        super().__init__(
            f"Attempt {attempt} of the task is over; stop working on it and drop its result.",
            task_id=task_id,
            attempt=str(attempt),
        )


class HelloRequired(FailedPrecondition):
    """The first message of a Work stream must carry hello."""

    reason = "HELLO_REQUIRED"
    domain = DOMAIN

    def __init__(self) -> None:
        super().__init__("The first message on a Work stream must carry hello with a worker_id and the kinds it runs.")


class InvalidFilter(InvalidArgument):
    """The filter of a list cannot be read."""

    reason = "INVALID_FILTER"
    domain = DOMAIN

    def __init__(self, problem: str, example: str = 'state = FAILED AND queue = "research"') -> None:
        super().__init__(f"The filter cannot be used: {problem}. An example: {example}.")


class WatchPositionExpired(FailedPrecondition):
    """The events from which a watcher wants to go on are no longer kept."""

    reason = "WATCH_POSITION_EXPIRED"
    domain = DOMAIN

    def __init__(self) -> None:
        super().__init__(
            "The events after this place are no longer kept for watchers (7 days by default); see what became of your tasks with"
            " GET /v1/tasks, and watch from now on."
        )


class InvalidResumeToken(InvalidArgument):
    """What says where to go on was not given by a stream."""

    reason = "INVALID_RESUME_TOKEN"
    domain = DOMAIN

    def __init__(self) -> None:
        super().__init__(
            "The resume token is not valid; send the resume_token (as SSE: the id) that the stream gave last, or none to watch"
            " from now on."
        )


class InvalidOrderBy(InvalidArgument):
    """A list cannot be put into this order."""

    reason = "INVALID_ORDER_BY"
    domain = DOMAIN

    def __init__(self, order_by: str) -> None:
        super().__init__(
            f"Tasks cannot be listed by {order_by!r}; use create_time or finish_time, with desc for the latest first.",
            order_by=order_by,
        )


class ScheduleNotFound(NotFound):
    """No such schedule in the caller's tenant."""

    reason = "SCHEDULE_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, schedule_id: str) -> None:
        super().__init__(f"No schedule {schedule_id!r}; list your schedules with GET /v1/schedules.", schedule_id=schedule_id)


class ScheduleExists(AlreadyExists):
    """The tenant has a schedule with this id."""

    reason = "SCHEDULE_EXISTS"
    domain = DOMAIN

    def __init__(self, schedule_id: str) -> None:
        super().__init__(
            f"There is a schedule {schedule_id!r} already; change it with PATCH /v1/schedules/{schedule_id},"
            " or choose another schedule_id.",
            schedule_id=schedule_id,
        )


class InvalidCron(InvalidArgument):
    """A cron expression cannot be read, or names no time."""

    reason = "INVALID_CRON"
    domain = DOMAIN

    def __init__(self, cron: str, problem: str) -> None:
        super().__init__(f"The cron expression {cron!r} cannot be used: {problem}. An example: 30 2 * * MON-FRI.", cron=cron)


class InvalidTimeZone(InvalidArgument):
    """No such time zone."""

    reason = "INVALID_TIME_ZONE"
    domain = DOMAIN

    def __init__(self, time_zone: str, similar: Sequence[str]) -> None:
        examples = ", ".join(similar or ("Europe/Berlin", "UTC"))
        super().__init__(
            f"No time zone {time_zone!r}; use a name of the IANA time zone database, such as {examples}.", time_zone=time_zone
        )


class EtagMismatch(Aborted):
    """What is to be changed was changed since the caller read it."""

    reason = "ETAG_MISMATCH"
    domain = DOMAIN
    retry_after = None

    def __init__(self, what: str, **named: str) -> None:
        [name] = named.values()
        super().__init__(
            f"The {what} {name!r} was changed since you read it; read it again, then repeat the change with its new etag.",
            **named,
        )


class BackfillTooLarge(InvalidArgument):
    """More runs than one call may start."""

    reason = "BACKFILL_TOO_LARGE"
    domain = DOMAIN

    def __init__(self, most: int) -> None:
        super().__init__(
            f"More than {most} runs lie in this time; fill a shorter one, and the rest with further calls.", most=str(most)
        )


class DeadLetterNotFound(NotFound):
    """No such dead letter in the caller's tenant."""

    reason = "DEAD_LETTER_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"No dead letter {task_id!r}; list those of a queue with GET /v1/dead-letters?queue=default.", task_id=task_id
        )


class TaskNotFailed(FailedPrecondition):
    """Only a task that failed is replayed."""

    reason = "TASK_NOT_FAILED"
    domain = DOMAIN

    def __init__(self, task_id: str, status: str) -> None:
        super().__init__(
            f"The task {task_id!r} is {status}; only a task that failed can be replayed.", task_id=task_id, status=status
        )


class ReplayNotKept(FailedPrecondition):
    """The task was replayed, and its replay is not kept any more."""

    reason = "REPLAY_NOT_KEPT"
    domain = DOMAIN

    def __init__(self, task_id: str, replay_task_id: str) -> None:
        super().__init__(
            f"The task {task_id!r} was replayed as {replay_task_id!r}, which is not kept any more;"
            " set again to replay it once more.",
            task_id=task_id,
            replay_task_id=replay_task_id,
        )


class DuplicateNodeKey(InvalidArgument):
    """Two nodes of a graph have the same key."""

    reason = "DUPLICATE_NODE_KEY"
    domain = DOMAIN

    def __init__(self, node: str) -> None:
        super().__init__(f"Two nodes have the key {node!r}; give each node a key of its own.", node=node)


class UnknownNodeKey(InvalidArgument):
    """A node of a graph depends on a key that no node has."""

    reason = "UNKNOWN_NODE_KEY"
    domain = DOMAIN

    def __init__(self, node: str, dependency: str) -> None:
        super().__init__(
            f"The node {node!r} depends on {dependency!r}, and no node has this key;"
            " to depend on a task that is there, use task.dependencies.",
            node=node,
            dependency=dependency,
        )


class SelfDependency(InvalidArgument):
    """A node of a graph depends on itself."""

    reason = "SELF_DEPENDENCY"
    domain = DOMAIN

    def __init__(self, node: str) -> None:
        super().__init__(f"The node {node!r} depends on itself; leave this dependency out.", node=node)


class DependencyCycle(InvalidArgument):
    """Nodes of a graph wait for each other."""

    reason = "DEPENDENCY_CYCLE"
    domain = DOMAIN

    def __init__(self, cycle: Sequence[str]) -> None:
        told = " -> ".join(cycle)
        super().__init__(f"The nodes wait for each other: {told}; leave one of these dependencies out.", cycle=told)


class EventsLate(Unavailable):
    """Events have waited for Kafka for too long."""

    reason = "EVENTS_LATE"
    domain = DOMAIN

    def __init__(self, events: int, seconds: float) -> None:
        super().__init__(
            f"{events} events wait for Kafka, the oldest for {seconds:.0f} s; tasks go on meanwhile, and nothing is lost. See"
            " whether Kafka answers, and the relays' logs.",
            events=str(events),
            oldest_seconds=f"{seconds:.0f}",
        )
