"""A client that asks until it is answered, and writes down what it asked for and was told."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Value
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc
from guildmesh.scheduler.v1 import task_pb2

from services.common.context import Principal
from services.common.grpcx.channel import secure_channel
from tests.faults.calls import UNKNOWN
from tests.faults.cluster import Cluster, target_of
from tests.faults.events import event_of
from tests.faults.evidence import Event
from tests.faults.history import FAIL, INFO, OK, Recorder, digest, sizes
from tests.faults.limited import place_of
from tests.faults.worker import KIND, SIGNAL
from tests.support.service import metadata

BATCH = 100
NOBODY = "nobody"
"""what a task does that no worker takes."""
CHILD = "child of "
"""before the id of the parent: what a subtask does, beside its work, which is quick."""
_MAX_ATTEMPTS = 20
_LATER_MS = 400
_LAYER = 4
_POLICIES = (
    task_pb2.DEPENDENCY_FAILURE_POLICY_FAIL,
    task_pb2.DEPENDENCY_FAILURE_POLICY_CANCEL,
    task_pb2.DEPENDENCY_FAILURE_POLICY_CONTINUE,
)


class Client:
    """Asks for tasks as one tenant, again and again with the same request id until it is answered."""

    def __init__(self, cluster: Cluster, channel: grpc.aio.Channel, tenant: str, recorder: Recorder) -> None:
        self.tenant = tenant
        self.task_ids: dict[str, str] = {}
        """answers so far, by tag."""
        self.since = sizes(cluster.histories())
        """where the histories end before this client has asked for anything."""
        self.watches: list[list[Event]] = []
        self.channel = channel
        self._stub: Any = pb_grpc.SchedulerServiceStub(channel)
        self._metadata = metadata(Principal("client", tenant, frozenset({"user"})))
        self.recorder = recorder
        self._cluster = cluster
        self.limited = cluster.shape.limited
        """share of its tasks that are in queues with limits."""
        self.queue, self.priority, self.key = "", 5, ""
        """where all of its tasks are, when that is said."""
        self.random = cluster.random
        self.call_seconds = 10.0
        """after which a call is given up and tried again, perhaps elsewhere."""
        self._watching: set[asyncio.Task[None]] = set()
        self._signalling: set[asyncio.Task[None]] = set()

    def within(self, queue: str, priority: int = 5, key: str = "") -> None:
        """Has all further tasks in one queue, with one concurrency key."""
        self.queue, self.priority, self.key = queue, priority, key

    def surprised(self, text: str) -> None:
        """Notes what nobody meant to happen."""
        self._cluster.surprises.append(text)

    async def submit(self, wanted: Mapping[str, str], *, batch: bool = True) -> None:
        """Creates a task for each tag, with what it does; returns when each is answered."""
        left = dict(wanted)
        while left:
            tags = list(left)[:BATCH]
            answered = await (self._batch(tags, left) if batch else self._single(tags, left))
            for tag in answered:
                if left.pop(tag) == "ask":
                    self._signal_soon(self.task_ids[tag])
            if not answered:
                await asyncio.sleep(0.1 * (0.5 + self._cluster.random.random()))

    async def submit_graph(self, wanted: Mapping[str, str]) -> None:
        """Creates a task for each tag, in layers each of which waits for some of the one before; returns when it is answered."""
        tags = list(wanted)
        request = pb.CreateTaskGraphRequest(request_id=f"graph {tags[0]}")
        for place, tag in enumerate(tags):
            node = request.nodes.add(key=tag)
            node.task.CopyFrom(self._request(tag, wanted[tag]).task)
            layer = place - place % _LAYER
            for each in self._cluster.random.sample(tags[max(0, layer - _LAYER) : layer], min(layer, 2)):
                node.dependencies.add(key=each, failure_policy=self._cluster.random.choice(_POLICIES))
        while not await self._graph(request):  # noqa: ASYNC110 - what is waited for is elsewhere
            await asyncio.sleep(0.1 * (0.5 + self._cluster.random.random()))

    async def _graph(self, request: pb.CreateTaskGraphRequest) -> bool:
        numbers = {node.key: self.recorder.invoke("create", tag=node.key, tenant=self.tenant) for node in request.nodes}
        try:
            response = await self._stub.CreateTaskGraph(request, metadata=self._metadata, timeout=15)
        except grpc.aio.AioRpcError as error:
            self.unknown(error)
            answers = [self._answer(tag, number, "", error.code().value[0]) for tag, number in numbers.items()]
        else:
            answers = [self._answer(result.key, numbers[result.key], result.task_id, 0) for result in response.results]
        return all(answers)

    def _signal_soon(self, task_id: str) -> None:
        """Signals a task at some moment, perhaps before it waits, perhaps twice at once, with the same value or another."""
        for value in self.random.choice((("yes",), ("yes",), ("yes", "yes"), ("yes", "no"))):
            task = asyncio.create_task(self.signal(task_id, value, self.random.uniform(0, 0.5)))
            self._signalling.add(task)
            task.add_done_callback(self._signalling.discard)

    async def signal(self, task_id: str, text: str, pause: float = 0.0) -> None:
        """Signals a task after a pause, until it is answered."""
        await asyncio.sleep(pause)
        value = Value(string_value=text)
        request = pb.SignalTaskRequest(task_id=task_id, signal=SIGNAL, value=value)
        told = digest(value.SerializeToString(deterministic=True))
        while True:
            number = self.recorder.invoke("signal", task_id=task_id, signal=SIGNAL, value=told)
            try:
                await self._stub.SignalTask(request, metadata=self._metadata, timeout=self.call_seconds)
            except grpc.aio.AioRpcError as error:
                if self.unknown(error):
                    self.recorder.outcome(number, INFO, code=error.code().name)
                    await asyncio.sleep(0.1)
                    continue
                # It has ended, perhaps by a signal of ours whose answer was lost; or it has another value.
                self.recorder.outcome(number, FAIL, code=error.code().name)
                if error.code() not in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ALREADY_EXISTS):
                    self._cluster.surprises.append(f"a signal was refused: {error.details()}")
            else:
                self.recorder.outcome(number, OK)
            return

    async def cancel(self, task_id: str) -> None:
        """Cancels a task, until it is answered."""
        while True:
            number = self.recorder.invoke("cancel", task_id=task_id)
            try:
                await self._stub.CancelTask(
                    pb.CancelTaskRequest(task_id=task_id), metadata=self._metadata, timeout=self.call_seconds
                )
            except grpc.aio.AioRpcError as error:
                if self.unknown(error):
                    self.recorder.outcome(number, INFO, code=error.code().name)
                    await asyncio.sleep(0.1)
                    continue
                # Refused: it has ended, perhaps by a cancellation of ours whose answer was lost.
                self.recorder.outcome(number, FAIL, code=error.code().name)
            else:
                self.recorder.outcome(number, OK)
            return

    async def until_started(self, task_id: str) -> None:
        """Waits until a task runs or has run."""
        while True:
            try:
                task = await self._stub.GetTask(
                    pb.GetTaskRequest(task_id=task_id), metadata=self._metadata, timeout=self.call_seconds
                )
            except grpc.aio.AioRpcError as error:
                if not self.unknown(error):
                    raise
            else:
                if task.attempt > 0 or task.HasField("finish_time"):
                    return
            await asyncio.sleep(0.01)

    def watch(self, task_id: str) -> None:
        """Watches a task to its end, going on after each break from the number it has."""
        seen: list[Event] = []
        self.watches.append(seen)
        task = asyncio.create_task(self._watch(task_id, seen))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def watched(self, seconds: float) -> None:
        """Waits until every watcher has seen the end of its task; those that have not are given up."""
        if self._watching:
            _, late = await asyncio.wait(self._watching, timeout=seconds)
            for task in late:
                task.cancel()
                self._cluster.surprises.append("a watcher did not see the end of its task")
            await asyncio.gather(*late, return_exceptions=True)

    async def _watch(self, task_id: str, seen: list[Event]) -> None:
        while True:
            after = seen[-1].number if seen else 0
            request = pb.WatchTaskRequest(task_id=task_id, after_event_number=after)
            try:
                async for event in self._stub.WatchTask(request, metadata=self._metadata):
                    seen.append(event_of(event))
                return
            except grpc.aio.AioRpcError as error:
                if not self.unknown(error):
                    return
                await asyncio.sleep(0.1)

    async def _batch(self, tags: Sequence[str], wanted: Mapping[str, str]) -> list[str]:
        numbers = [self.recorder.invoke("create", tag=tag, tenant=self.tenant) for tag in tags]
        request = pb.BatchCreateTasksRequest(requests=[self._request(tag, wanted[tag]) for tag in tags])
        try:
            response = await self._stub.BatchCreateTasks(request, metadata=self._metadata, timeout=15)
        except grpc.aio.AioRpcError as error:
            self.unknown(error)
            for number in numbers:
                self.recorder.outcome(number, INFO, code=error.code().name)
            return []
        answered = []
        for tag, number, result in zip(tags, numbers, response.results, strict=True):
            if self._answer(tag, number, result.task_id, result.error.code):
                answered.append(tag)
        return answered

    async def _single(self, tags: Sequence[str], wanted: Mapping[str, str]) -> list[str]:
        async def one(tag: str) -> bool:
            number = self.recorder.invoke("create", tag=tag, tenant=self.tenant)
            try:
                task = await self._stub.CreateTask(self._request(tag, wanted[tag]), metadata=self._metadata, timeout=15)
            except grpc.aio.AioRpcError as error:
                self.unknown(error)
                return self._answer(tag, number, "", error.code().value[0])
            return self._answer(tag, number, task.task_id, 0)

        done = await asyncio.gather(*(one(tag) for tag in tags))
        return [tag for tag, answered in zip(tags, done, strict=True) if answered]

    def _answer(self, tag: str, number: int, task_id: str, code: int) -> bool:
        if not code:
            self.recorder.outcome(number, OK, task_id=task_id)
            self.task_ids[tag] = task_id
            return True
        unknown = code in {status.value[0] for status in UNKNOWN}
        self.recorder.outcome(number, INFO if unknown else FAIL, code=code)
        if not unknown:
            self._cluster.surprises.append(f"the create of {tag} was refused with code {code}")
        return not unknown

    def unknown(self, error: grpc.aio.AioRpcError) -> bool:
        """Whether nobody knows what happened; an INTERNAL is a fault of ours, whatever was broken."""
        if error.code() is grpc.StatusCode.INTERNAL:
            self._cluster.surprises.append(f"INTERNAL: {error.details()}")
            return True
        return error.code() in UNKNOWN

    def _request(self, tag: str, what: str) -> pb.CreateTaskRequest:
        """The same for a tag whenever it is asked."""
        parent = what.removeprefix(CHILD) if what.startswith(CHILD) else ""
        if parent or what == NOBODY:
            kind = KIND if parent else f"{KIND}-{NOBODY}"
            task = task_pb2.Task(description=tag, kind=kind, max_attempts=_MAX_ATTEMPTS, parent_task_id=parent)
            return pb.CreateTaskRequest(task=task, request_id=tag)
        task = task_pb2.Task(description=tag, kind=KIND, max_attempts=_MAX_ATTEMPTS, labels={"do": what} if what else {})
        if self.queue:
            task.queue, task.priority, task.concurrency_key = self.queue, self.priority, self.key
        elif (place := place_of(tag, self.limited)) is not None:
            task.queue, task.concurrency_key = place
            # Long enough that two that run at once are seen to.
            task.labels["do"] = what or "hold"
        if what in ("later", "ask later"):
            task.delay.FromMilliseconds(_LATER_MS)
        return pb.CreateTaskRequest(task=task, request_id=tag)


@asynccontextmanager
async def client_of(cluster: Cluster, tenant: str = "", ports: Sequence[int] = ()) -> AsyncIterator[Client]:
    """A client with a tenant of its own, as the gateway would pass its calls on; with `ports` it knows only these schedulers."""
    tenant = tenant or f"t-{uuid.uuid4().hex[:12]}"
    recorder = Recorder(cluster.folder / f"history-client-{tenant}-{uuid.uuid4().hex[:6]}.jsonl", f"client-{tenant}")
    async with secure_channel(target_of(ports or cluster.ports), "scheduler", cluster.tls / "gateway") as channel:
        client = Client(cluster, channel, tenant, recorder)
        try:
            yield client
        finally:
            await client.watched(0)
            recorder.close()
