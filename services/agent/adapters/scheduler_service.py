"""Tasks of the scheduler, for the current caller."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_pb2
from guildmesh_client.payloads import download_json, upload_json

from services.agent.adapters.refusals import refusal, refusals
from services.agent.domain.work import CONTEXT_LIMIT, EndedTask, NewTask
from services.common.errors import DomainError, FailedPrecondition, NotFound
from services.common.json_values import size_of
from services.common.structs import json_to_struct, value_to_json

T = TypeVar("T")
_log = structlog.get_logger(__name__)
_ENDED = {
    task_pb2.TASK_STATE_COMPLETED: "completed",
    task_pb2.TASK_STATE_FAILED: "failed",
    task_pb2.TASK_STATE_CANCELLED: "cancelled",
}
_LAST_EVENTS = frozenset({"completed", "failed", "cancelled"})
# An outage that a repeat may find over. DEADLINE_EXCEEDED is one too: nothing here is waited for with a short deadline.
_OUTAGES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "RESOURCE_EXHAUSTED"})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


class SchedulerRuns:
    """Implements Runs; gives tasks as the scheduler's own message."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._scheduler = pb_grpc.SchedulerServiceStub(channel)

    async def start(self, task: NewTask, request_id: str) -> task_pb2.Task:
        """Creates a task."""
        with refusals("scheduler"):
            answer: task_pb2.Task = await self._scheduler.CreateTask(
                pb.CreateTaskRequest(task=_to_proto(task), request_id=request_id)
            )
        return answer


class SchedulerSubtasks:
    """Implements Subtasks: calls that fail for an outage are made again until they succeed or are cancelled."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._scheduler = pb_grpc.SchedulerServiceStub(channel)
        self._channel = channel

    async def create(self, task: NewTask, request_id: str, parent_attempt: int) -> str:
        """Creates a subtask; what has no room in it goes as a payload."""
        request = pb.CreateTaskRequest(request_id=request_id, parent_attempt=parent_attempt)
        if size_of(task.context) > CONTEXT_LIMIT:
            request.task.CopyFrom(_to_proto(replace(task, context={})))
            request.task.ClearField("context")
            request.task.context_payload = await _persistently(lambda: upload_json(self._channel, task.context))
        else:
            request.task.CopyFrom(_to_proto(task))

        async def call() -> str:
            created: task_pb2.Task = await self._scheduler.CreateTask(request)
            return created.task_id

        return await _persistently(call)

    async def wait(self, task_id: str) -> EndedTask:
        """Follows the task's events to the last one; a stream that breaks is opened again where it was."""
        seen = 0

        async def follow() -> bool:
            nonlocal seen
            stream = self._scheduler.WatchTask(pb.WatchTaskRequest(task_id=task_id, after_event_number=seen))
            async for event in stream:
                seen = event.number
                if event.WhichOneof("change") in _LAST_EVENTS:
                    return True
            return False

        # A stream that ends early is one of a scheduler that stops: the next one is somewhere else, or here again soon.
        pause = _FIRST_PAUSE
        while not await _persistently(follow):
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        return await self._ended(task_id)

    async def cancel(self, task_id: str, cause: str) -> None:
        """Cancels the task."""

        async def call() -> None:
            await self._scheduler.CancelTask(pb.CancelTaskRequest(task_id=task_id, cause=cause))

        try:
            await _persistently(call)
        except (FailedPrecondition, NotFound):
            # It has ended by itself.
            return

    async def _ended(self, task_id: str) -> EndedTask:
        async def call() -> task_pb2.Task:
            answer: task_pb2.Task = await self._scheduler.GetTask(pb.GetTaskRequest(task_id=task_id))
            return answer

        task = await _persistently(call)
        result = value_to_json(task.result)
        if task.result_payload:
            try:
                result = await _persistently(lambda: download_json(self._channel, task.result_payload))
            except ValueError as error:
                text = f"Its result, the payload {task.result_payload}, is not JSON: {error}"
                return EndedTask(task_id, "failed", error_reason="RESULT_INVALID", error_message=text)
        return EndedTask(
            task_id=task_id,
            status=_ENDED.get(task.state, "failed"),
            result=result,
            error_reason=task.error.reason,
            error_message=task.error.message,
        )


async def _persistently(call: Callable[[], Awaitable[T]]) -> T:
    pause = _FIRST_PAUSE
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            refused: DomainError = refusal("scheduler", error)
            if error.code().name not in _OUTAGES:
                raise refused from error
            _log.warning("scheduler away, trying again", code=error.code().name, wait_for=pause)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries, keeps no secret
        pause = min(pause * 2, _LONGEST_PAUSE)


def _to_proto(task: NewTask) -> task_pb2.Task:
    return task_pb2.Task(
        queue=task.queue,
        kind=task.kind,
        description=task.description,
        context=json_to_struct(task.context),
        timeout=Duration(seconds=task.timeout_seconds),
        max_attempts=task.max_attempts,
        parent_task_id=task.parent_task_id,
        labels=task.labels,
    )
