"""Tasks in a few lines: calls that are made at once travel together.

async with grpc.aio.secure_channel("mesh.example:443", credentials) as channel:
    tasks = TaskClient(channel, metadata=[("authorization", f"Bearer {token}")])
    task_id = await tasks.create("Write the report.", kind="report.write", context={"year": 2026})
    answer = await tasks.run("Name three prime numbers.")
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TypeAlias, Unpack

import grpc
from google.protobuf.message import EncodeError
from google.rpc import code_pb2, status_pb2
from guildmesh.events.v1 import task_event_pb2
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_pb2

from guildmesh_client.batch import Batch
from guildmesh_client.dependencies import Graph
from guildmesh_client.events import WatchedEvent, watch_task, watch_tasks
from guildmesh_client.options import TaskOptions, fill
from guildmesh_client.payloads import download_json, upload_json
from guildmesh_client.refusals import reason_in, status_of
from guildmesh_client.worker.json_values import JsonValue, TooLarge, from_value
from guildmesh_client.worker.large_values import persistently

Metadata: TypeAlias = Sequence[tuple[str, str]]

# What the scheduler takes as `wait`.
_LONGEST_WAIT = 60.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 3.0
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
}


class TaskRefused(Exception):
    """The scheduler did not create a task.

    Attributes:
        code: name of the gRPC status code, such as "NOT_FOUND".
        reason: machine-readable, such as "QUEUE_NOT_FOUND".
        message: for people; it says what to do.
    """

    def __init__(self, status: status_pb2.Status) -> None:
        self.reason = reason_in(status)
        super().__init__(f"{self.reason}: {status.message}" if self.reason else status.message)
        self.code = code_pb2.Code.Name(code_pb2.Code.ValueType(status.code))
        self.message = status.message


class TaskNotCompleted(Exception):
    """A task ended without a result.

    Attributes:
        task_id: id of the task.
        status: "failed" or "cancelled".
        reason: machine-readable, such as "TIMEOUT"; empty for a cancelled task.
        message: for people.
    """

    def __init__(self, task: task_pb2.Task) -> None:
        why = f"{task.error.reason}: {task.error.message}" if task.error.reason else "it was cancelled"
        super().__init__(f"task {task.task_id} {task.status}: {why}")
        self.task_id = task.task_id
        self.status = task.status
        self.reason = task.error.reason
        self.message = task.error.message


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
        self._channel = channel
        self._stub: pb_grpc.SchedulerServiceAsyncStub = pb_grpc.SchedulerServiceStub(channel)
        self._metadata = metadata
        self._timeout = timeout
        self._waiting: deque[Batch] = deque()
        self._sending: asyncio.Task[None] | None = None

    async def create(self, description: str, *, request_id: str = "", **options: Unpack[TaskOptions]) -> str:
        """Creates a task and gives its id; with a request id a repeat of the call gives the same one.

        Raises:
            TaskRefused: the scheduler did not create it.
            ValueError: the context is not a JSON object, or an option is not valid.
            grpc.aio.AioRpcError: the call failed, and whether the task was created is not known; with a request id, ask again.
        """
        batch = self._open_batch()
        request = batch.draft()
        try:
            if request_id:
                request.request_id = request_id
            fill(request.task, description, options)
            size = _size_of(request)
        except TooLarge:
            # Others may join the batch meanwhile, so this one is made anew.
            batch.take_back()
        except BaseException:
            batch.take_back()
            raise
        else:
            return await self._join(batch, size)
        large = pb.CreateTaskRequest(request_id=request_id)
        await self._fill_large(large.task, description, options)
        return await self.send(large)

    async def run(
        self, description: str, *, request_id: str = "", wait: float = 300.0, **options: Unpack[TaskOptions]
    ) -> JsonValue:
        """Creates a task and gives its result. Lost connections and restarts are borne: the same task is asked for again.

        Raises:
            TaskRefused: the scheduler did not create it.
            TaskNotCompleted: it failed or was cancelled.
            TimeoutError: it has not ended after `wait` seconds; it goes on.
            ValueError: the context is not a JSON object, or an option is not valid.
            grpc.aio.AioRpcError: the call failed for another reason than that nobody answered.
        """
        request = pb.RunTaskRequest(request_id=request_id or str(uuid.uuid4()))
        try:
            fill(request.task, description, options)
        except TooLarge:
            request.ClearField("task")
            await self._fill_large(request.task, description, options)
        _size_of(request)
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        pause = _FIRST_PAUSE
        while (left := until - loop.time()) > 0:
            request.wait.FromNanoseconds(round(min(left, _LONGEST_WAIT) * 1e9))
            try:
                task = await self._run(request, min(left, _LONGEST_WAIT) + self._timeout)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    raise
                await asyncio.sleep(min(pause, until - loop.time()))
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            if task.status == "completed":
                return await persistently(partial(self.result_of, task), self._timeout)
            if task.status in ("failed", "cancelled"):
                raise TaskNotCompleted(task)
        raise TimeoutError(f"the task has not ended after {wait:g} s; it goes on")

    async def create_graph(self, graph: Graph, *, request_id: str = "") -> dict[str, str]:
        """Creates all tasks of a graph, or none, and gives their ids by the keys of the nodes; a repeat gives the same ones.

        Contexts of more than 1 MiB are uploaded first.
        Lost connections and restarts are borne for `timeout` seconds of this client: the same graph is asked for again.

        Raises:
            TaskRefused: the scheduler did not create it, such as for a cycle; the message names the node.
            grpc.aio.AioRpcError: the call failed, and whether the graph was created is not known; with a request id, ask again.
        """
        request = graph.request(request_id or str(uuid.uuid4()))
        for place, context in graph.large.items():
            request.nodes[place].task.context_payload = await self._upload(context)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        pause = _FIRST_PAUSE
        while True:
            metadata = self._metadata() if callable(self._metadata) else self._metadata
            try:
                left = max(until - loop.time(), _FIRST_PAUSE)
                response = await self._stub.CreateTaskGraph(request, metadata=tuple(metadata), timeout=left)
                return {result.key: result.task_id for result in response.results}
            except grpc.aio.AioRpcError as error:
                if error.code() in _REFUSALS:
                    raise TaskRefused(status_of(error)) from error
                if error.code() is not grpc.StatusCode.UNAVAILABLE or loop.time() + pause > until:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def watch(self, task_id: str, *, after: int = 0) -> AsyncIterator[task_event_pb2.TaskEvent]:
        """The events of a task with larger numbers than `after`, each once and in order, until its last.

        Lost connections and restarts are borne: the stream is opened again where it was. So is the end of a token, where the
        metadata is a function. Use `contextlib.aclosing` to stop early.

        Raises:
            grpc.aio.AioRpcError: such as NOT_FOUND; UNAVAILABLE when nobody has answered for `timeout` seconds.
        """
        return watch_task(self._channel, self._metadata, task_id, after, self._timeout)

    def watch_tasks(
        self, filter: str = "", *, resume_token: str = "", start_time: datetime | None = None
    ) -> AsyncIterator[WatchedEvent]:
        """The events of all tasks that meet a filter (AIP-160), each once and those of a task in order; it does not end.

        From now on, from those published at `start_time` on (with a zone; at most a week ago), or behind the `resume_token` of an
        earlier event. Bears and raises what `watch` does; FAILED_PRECONDITION when what follows the token is no longer kept.
        """
        return watch_tasks(self._channel, self._metadata, filter, resume_token, start_time, self._timeout)

    async def result_of(self, task: task_pb2.Task) -> JsonValue:
        """The result of a completed task, whether it is in the message or a payload."""
        if not task.result_payload:
            return from_value(task.result)
        found: JsonValue = await download_json(self._channel, task.result_payload, self._fresh_metadata())
        return found

    def _fresh_metadata(self) -> Metadata:
        return self._metadata() if callable(self._metadata) else self._metadata

    async def _fill_large(self, task: task_pb2.Task, description: str, options: TaskOptions) -> None:
        """Fills a task whose context is too large for it: that is uploaded, and named."""
        rest = TaskOptions(**options)
        context = rest.pop("context") or {}
        fill(task, description, rest)
        task.context_payload = await self._upload(context)

    async def _upload(self, context: Mapping[str, JsonValue]) -> str:
        """Keeps a context as a payload; asks again for `timeout` seconds, since one that is there twice is no harm."""
        try:
            return await persistently(lambda: upload_json(self._channel, dict(context), self._fresh_metadata()), self._timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() in _REFUSALS:
                raise TaskRefused(status_of(error)) from error
            raise

    async def _run(self, request: pb.RunTaskRequest, timeout: float) -> task_pb2.Task:
        metadata = self._metadata() if callable(self._metadata) else self._metadata
        try:
            return await self._stub.RunTask(request, metadata=tuple(metadata), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() in _REFUSALS:
                raise TaskRefused(status_of(error)) from error
            raise

    async def send(self, request: pb.CreateTaskRequest) -> str:
        """Creates the task of a request and gives its id; raises what `create` does."""
        size = _size_of(request)
        batch = self._open_batch()
        batch.draft().CopyFrom(request)
        return await self._join(batch, size)

    def _open_batch(self) -> Batch:
        """The batch that the next request joins."""
        if not self._waiting or self._waiting[-1].full:
            self._waiting.append(Batch())
        return self._waiting[-1]

    def _join(self, batch: Batch, size: int) -> asyncio.Future[str]:
        """Has the draft of a batch sent, with another batch if it is too large for this one."""
        if not batch.takes(size):
            request = batch.take_back()
            batch = Batch()
            batch.draft().CopyFrom(request)
            self._waiting.append(batch)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return batch.add(size)

    async def _send(self) -> None:
        try:
            # Whoever is ready to run now may still join the first call.
            await asyncio.sleep(0)
            while self._waiting:
                await self._call(self._waiting.popleft())
        finally:
            self._sending = None

    async def _call(self, batch: Batch) -> None:
        futures = batch.close()
        if not futures:
            return
        try:
            metadata = self._metadata() if callable(self._metadata) else self._metadata
            response = await self._stub.BatchCreateTasks(batch.message, metadata=tuple(metadata), timeout=self._timeout)
        except Exception as error:
            for future in futures:
                if not future.done():
                    future.set_exception(error)
            return
        for future, result in zip(futures, response.results, strict=True):
            if future.done():
                continue
            if result.HasField("error"):
                future.set_exception(TaskRefused(result.error))
            else:
                future.set_result(result.task_id)


def _size_of(request: pb.CreateTaskRequest | pb.RunTaskRequest) -> int:
    try:
        return request.ByteSize()
    except EncodeError as error:
        raise ValueError(str(error)) from error
