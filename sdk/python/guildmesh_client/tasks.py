"""Tasks in a few lines: calls that are made at once travel together.

async with grpc.aio.secure_channel("mesh.example:443", credentials) as channel:
    tasks = TaskClient(channel, metadata=[("authorization", f"Bearer {token}")])
    task_id = await tasks.create("Write the report.", kind="report.write", context={"year": 2026})
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import grpc
from google.protobuf.message import EncodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_pb2

from guildmesh_client.worker.json_values import JsonValue, to_value

Metadata: TypeAlias = Sequence[tuple[str, str]]

_MOST_TASKS = 1000
_MOST_BYTES = 4 << 20


class TaskRefused(Exception):
    """The scheduler did not create a task.

    Attributes:
        code: name of the gRPC status code, such as "NOT_FOUND".
        reason: machine-readable, such as "QUEUE_NOT_FOUND".
        message: for people; it says what to do.
    """

    def __init__(self, status: status_pb2.Status) -> None:
        info = error_details_pb2.ErrorInfo()
        any(detail.Unpack(info) for detail in status.details)
        super().__init__(f"{info.reason}: {status.message}" if info.reason else status.message)
        self.code = code_pb2.Code.Name(code_pb2.Code.ValueType(status.code))
        self.reason = info.reason
        self.message = status.message


class TaskClient:
    """Creates tasks. What is asked for while a call is under way goes out with the next one; a lone call waits for nothing."""

    def __init__(
        self, channel: grpc.aio.Channel, metadata: Metadata | Callable[[], Metadata] = (), timeout: float = 30.0
    ) -> None:
        """Speaks through `channel`, which stays the caller's to close.

        Args:
            channel: to the gateway.
            metadata: sent with each call, such as ("authorization", "Bearer …"); a function is asked each time.
            timeout: seconds that a call may take.
        """
        self._stub: pb_grpc.SchedulerServiceAsyncStub = pb_grpc.SchedulerServiceStub(channel)
        self._metadata = metadata
        self._timeout = timeout
        self._waiting: deque[tuple[pb.CreateTaskRequest, int, asyncio.Future[str]]] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def create(
        self,
        description: str,
        *,
        kind: str = "",
        queue: str = "",
        context: Mapping[str, JsonValue] | None = None,
        priority: int | None = None,
        timeout: float | None = None,
        max_attempts: int | None = None,
        labels: Mapping[str, str] | None = None,
        parent_task_id: str = "",
        request_id: str = "",
    ) -> str:
        """Creates a task and gives its id; with a request id a repeat of the call gives the same one.

        Raises:
            TaskRefused: the scheduler did not create it.
            ValueError: the context is not a JSON object, or a text is not valid.
            grpc.aio.AioRpcError: the call failed, and whether the task was created is not known; with a request id, ask again.
        """
        task = task_pb2.Task(
            description=description,
            kind=kind,
            queue=queue,
            priority=priority,
            max_attempts=max_attempts,
            labels=labels or {},
            parent_task_id=parent_task_id,
        )
        if timeout is not None:
            task.timeout.FromNanoseconds(round(timeout * 1e9))
        if context is not None:
            task.context.CopyFrom(to_value(dict(context)).struct_value)
        return await self.send(pb.CreateTaskRequest(task=task, request_id=request_id))

    async def send(self, request: pb.CreateTaskRequest) -> str:
        """Creates the task of a request and gives its id; raises what `create` does."""
        try:
            size = request.ByteSize()
        except EncodeError as error:
            raise ValueError(str(error)) from error
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, size, future))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await future

    async def _send(self) -> None:
        try:
            # Whoever is ready to run now may still join the first call.
            await asyncio.sleep(0)
            while self._waiting:
                await self._call(self._next())
        finally:
            self._sending = None

    def _next(self) -> list[tuple[pb.CreateTaskRequest, asyncio.Future[str]]]:
        batch: list[tuple[pb.CreateTaskRequest, asyncio.Future[str]]] = []
        total = 0
        while self._waiting and len(batch) < _MOST_TASKS:
            total += self._waiting[0][1]
            if batch and total > _MOST_BYTES:
                break
            request, _, future = self._waiting.popleft()
            # Nobody waits for a call that was given up before it went out.
            if not future.done():
                batch.append((request, future))
        return batch

    async def _call(self, batch: Sequence[tuple[pb.CreateTaskRequest, asyncio.Future[str]]]) -> None:
        if not batch:
            return
        metadata = self._metadata() if callable(self._metadata) else self._metadata
        request = pb.BatchCreateTasksRequest(requests=[request for request, _ in batch])
        try:
            response = await self._stub.BatchCreateTasks(request, metadata=tuple(metadata), timeout=self._timeout)
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, response.results, strict=True):
            if future.done():
                continue
            if result.HasField("error"):
                future.set_exception(TaskRefused(result.error))
            else:
                future.set_result(result.task_id)
