"""SchedulerService: each method converts, calls its use case, converts back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from google.api.httpbody_pb2 import HttpBody
from guildmesh.events.v1.task_event_pb2 import TaskEvent
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_graph_pb2, task_pb2

from services.common.context import current_call
from services.common.errors import DomainError, Internal, InvalidRequest, WatchTicketRefused
from services.common.grpcx.status import to_status
from services.common.validation import validate_each
from services.scheduler.domain.positions import Positions, decode_positions
from services.scheduler.domain.published import parse_event_filter
from services.scheduler.domain.task import Task
from services.scheduler.server.convert import (
    moment,
    new_task,
    submitted_task,
    task_filter,
    task_message,
    value_bytes,
    watch_response,
)
from services.scheduler.server.graph_convert import new_graph
from services.scheduler.server.queue_convert import counts_message, queue_message
from services.scheduler.server.sse import as_sse, seen_message
from services.scheduler.usecases.cancel_task import CancelTask
from services.scheduler.usecases.count_tasks import CountTasks
from services.scheduler.usecases.create_task import CreateTask
from services.scheduler.usecases.create_task_graph import CreateTaskGraph
from services.scheduler.usecases.get_task import GetTask
from services.scheduler.usecases.list_queues import ListQueues
from services.scheduler.usecases.list_tasks import ListTasks
from services.scheduler.usecases.run_task import RunTask
from services.scheduler.usecases.signal_task import SignalTask
from services.scheduler.usecases.watch_own_topics import WatchOwnTopics
from services.scheduler.usecases.watch_task import WatchTask
from services.scheduler.usecases.watch_tasks import Seen, WatchTasks

log = structlog.get_logger(__name__)

_WAIT = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the servicer calls."""

    create_task: CreateTask
    create_task_graph: CreateTaskGraph
    run_task: RunTask
    get_task: GetTask
    list_tasks: ListTasks
    cancel_task: CancelTask
    signal_task: SignalTask
    watch_task: WatchTask
    list_queues: ListQueues
    count_tasks: CountTasks


class SchedulerServicer(pb_grpc.SchedulerServiceServicer):
    """Serves guildmesh.scheduler.v1.SchedulerService."""

    def __init__(self, use_cases: UseCases, watch_tasks: WatchTasks | WatchOwnTopics, keep_alive_seconds: float) -> None:
        self._use_cases = use_cases
        self._watch_tasks = watch_tasks
        self._keep_alive_seconds = keep_alive_seconds

    async def SubmitTask(self, request: pb.SubmitTaskRequest, context: Any) -> pb.SubmitTaskResponse:
        """Serves POST /task."""
        call = current_call()
        task = submitted_task(request, call.principal.tenant_id, call.principal.subject, call.traceparent)
        created = await self._use_cases.create_task.execute(task)
        return pb.SubmitTaskResponse(task_id=created.task_id, status=created.state.status)

    async def CreateTask(self, request: pb.CreateTaskRequest, context: Any) -> task_pb2.Task:
        """Creates a task."""
        call = current_call()
        task = new_task(request, call.principal.tenant_id, call.principal.subject, call.traceparent)
        return task_message(await self._use_cases.create_task.execute(task))

    async def RunTask(self, request: pb.RunTaskRequest, context: Any) -> task_pb2.Task:
        """Creates a task and waits for its end."""
        call = current_call()
        wait = request.wait.ToTimedelta() if request.HasField("wait") else _WAIT
        task = new_task(request, call.principal.tenant_id, call.principal.subject, call.traceparent)
        return task_message(await self._use_cases.run_task.execute(task, wait))

    async def BatchCreateTasks(self, request: pb.BatchCreateTasksRequest, context: Any) -> pb.BatchCreateTasksResponse:
        """Creates many tasks, each for itself."""
        call = current_call()
        tenant_id, subject, traceparent = call.principal.tenant_id, call.principal.subject, call.traceparent
        answers: dict[int, Task | Exception] = {}
        tasks = []
        places = []
        for place, (item, error) in enumerate(zip(request.requests, validate_each(request, "requests"), strict=True)):
            if error is not None:
                answers[place] = error
            else:
                tasks.append(new_task(item, tenant_id, subject, traceparent))
                places.append(place)
        answers |= zip(places, await self._use_cases.create_task.execute_all(tasks), strict=True)
        results = [_batch_result(answers[place], call.request_id) for place in range(len(request.requests))]
        return pb.BatchCreateTasksResponse(results=results)

    async def CreateTaskGraph(self, request: pb.CreateTaskGraphRequest, context: Any) -> pb.CreateTaskGraphResponse:
        """Creates tasks that wait for each other."""
        call = current_call()
        graph = new_graph(request, call.principal.tenant_id, call.principal.subject, call.traceparent)
        ids = await self._use_cases.create_task_graph.execute(graph)
        results = (task_graph_pb2.TaskGraphResult(key=key, task_id=task_id) for key, task_id in zip(graph.keys, ids, strict=True))
        return pb.CreateTaskGraphResponse(results=results)

    async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> task_pb2.Task:
        """Gives a task."""
        return task_message(await self._use_cases.get_task.execute(_tenant(), request.task_id))

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksResponse:
        """Gives a page of tasks."""
        tasks, token = await self._use_cases.list_tasks.execute(
            _tenant(), task_filter(request), request.page_size, request.page_token
        )
        return pb.ListTasksResponse(tasks=[task_message(task) for task in tasks], next_page_token=token)

    async def CancelTask(self, request: pb.CancelTaskRequest, context: Any) -> task_pb2.Task:
        """Cancels a task and its subtasks."""
        principal = current_call().principal
        task = await self._use_cases.cancel_task.execute(principal.tenant_id, request.task_id, request.cause, principal.subject)
        return task_message(task)

    async def SignalTask(self, request: pb.SignalTaskRequest, context: Any) -> task_pb2.Task:
        """Sends a task a signal."""
        principal = current_call().principal
        value = value_bytes(request.value)
        task = await self._use_cases.signal_task.execute(
            principal.tenant_id, request.task_id, request.signal, value, principal.subject
        )
        return task_message(task)

    async def WatchTask(self, request: pb.WatchTaskRequest, context: Any) -> AsyncIterator[TaskEvent]:
        """Streams a task's events."""
        events = self._use_cases.watch_task.execute(_tenant(), request.task_id, request.after_event_number)
        async with aclosing(events):
            async for event in events:
                yield TaskEvent.FromString(event.value)

    async def StreamTaskEvents(self, request: pb.StreamTaskEventsRequest, context: Any) -> AsyncIterator[HttpBody]:
        """Streams a task's events as server-sent events."""
        watches = current_call().principal.watches
        if watches and watches != request.task_id:
            raise WatchTicketRefused(watches)
        after = int(request.last_event_id or 0)
        events = self._use_cases.watch_task.execute(_tenant(), request.task_id, after)
        async with aclosing(events), aclosing(as_sse(events, self._keep_alive_seconds)) as messages:
            async for message in messages:
                yield message

    async def WatchTasks(self, request: pb.WatchTasksRequest, context: Any) -> AsyncIterator[pb.WatchTasksResponse]:
        """Streams the events of many tasks."""
        if request.resume_token and request.HasField("start_time"):
            raise InvalidRequest([("start_time", "must be unset with resume_token, which says where to begin")])
        async with aclosing(self._watch(request.filter, request.resume_token, request)) as seen:
            async for each in seen:
                yield watch_response(each)

    async def StreamEvents(self, request: pb.StreamEventsRequest, context: Any) -> AsyncIterator[HttpBody]:
        """Streams the events of many tasks as server-sent events."""
        # A browser that comes back asks with the same URL.
        async with aclosing(self._watch(request.filter, request.last_event_id, request)) as seen:
            async for each in seen:
                yield seen_message(each)

    def _watch(self, wanted: str, token: str, request: pb.WatchTasksRequest | pb.StreamEventsRequest) -> AsyncGenerator[Seen]:
        start: Positions | datetime | None = None
        if token:
            start = decode_positions(token)
        elif request.HasField("start_time"):
            start = moment(request.start_time, "start_time")
        return self._watch_tasks.execute(_tenant(), parse_event_filter(wanted), start, current_call().token_ends)

    async def ListQueues(self, request: pb.ListQueuesRequest, context: Any) -> pb.ListQueuesResponse:
        """Lists the queues."""
        queues = await self._use_cases.list_queues.execute(_tenant())
        return pb.ListQueuesResponse(queues=[queue_message(queue, weights=False) for queue in queues])

    async def CountTasks(self, request: pb.CountTasksRequest, context: Any) -> pb.CountTasksResponse:
        """Counts the tasks of the mesh."""
        return counts_message(await self._use_cases.count_tasks.execute())


def _batch_result(answer: Task | Exception, request_id: str) -> pb.BatchCreateTasksResult:
    if isinstance(answer, Task):
        return pb.BatchCreateTasksResult(task_id=answer.task_id)
    if not isinstance(answer, DomainError):
        log.error("item of a batch failed", exc_info=answer)
        answer = Internal(f"An internal error happened; report it with the request id {request_id}.", request_id=request_id)
    return pb.BatchCreateTasksResult(error=to_status(answer))


def _tenant() -> str:
    return current_call().principal.tenant_id
