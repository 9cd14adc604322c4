"""The worker: keeps a stream to the scheduler, runs what it leases, and tells every outcome until it is durable."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import random
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar

import grpc
from google.protobuf.struct_pb2 import Value
from guildmesh.scheduler.v1 import worker_service_pb2 as pb
from guildmesh.scheduler.v1 import worker_service_pb2_grpc as pb_grpc

from guildmesh_client.worker.calls import Calls
from guildmesh_client.worker.channel import Connection, OpenChannel, opener
from guildmesh_client.worker.errors import StepRefused, WorkerRefused
from guildmesh_client.worker.json_values import JsonValue, to_value
from guildmesh_client.worker.outcome import failure, outcome
from guildmesh_client.worker.reports import Report, Reports, key_of
from guildmesh_client.worker.run import Run
from guildmesh_client.worker.stream import Stream
from guildmesh_client.worker.task import Task

TaskFunction: TypeAlias = Callable[[Task], Awaitable[JsonValue]]
F = TypeVar("F", bound=TaskFunction)
Metadata: TypeAlias = Sequence[tuple[str, str]]

log = logging.getLogger(__name__)

_CONCURRENCY_VARIABLE = "MAX_CONCURRENT_TASKS"
_DEFAULT_CONCURRENCY = 10
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 3.0
_MOST_PATIENCE = 8
# Trying again with the same certificate, token or kinds gives the same answer.
_REFUSED = {
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
}


class Worker:
    """Runs tasks. Everything it tells is fenced by the attempt, and told again after a reconnect until it is acknowledged.

    A run is cancelled (asyncio.CancelledError in its function) when the scheduler says so, such as when a timeout of its task has
    passed, or when its lease is about to end without a renewal, by the monotonic clock: whoever gets the task next never runs
    beside it, as long as the function does not block the event loop and lets the cancellation through.

    A scheduler that does not answer, though its connection stands, is left for another before that: when nothing at all is heard
    for a heartbeat interval while an answer is owed, or a heartbeat has waited for a whole lease, the worker opens another stream
    on another connection, tells there what runs and what is not acknowledged, and drops the first when it is welcomed.
    """

    def __init__(
        self,
        target: str = "",
        *,
        channel: grpc.aio.Channel | None = None,
        open_channel: OpenChannel | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Metadata | Callable[[], Metadata | Awaitable[Metadata]] = (),
        queues: Sequence[str] = (),
        concurrency: int | None = None,
        worker_id: str = "",
        all_tenants: bool = False,
        drain_seconds: float = 30.0,
        around: Callable[[Task], contextlib.AbstractContextManager[object]] | None = None,
    ) -> None:
        """Describes the worker; `run` connects it.

        Args:
            target: host:port to connect to with `credentials` (none: without TLS), unless a channel is given.
            channel: a channel to use; it stays the caller's to close.
            open_channel: opens the channel to use, and another when nobody answers on it; each should have connections of its own
                ("grpc.use_local_subchannel_pool").
            credentials: of the channel to `target`.
            metadata: sent with each stream, such as ("authorization", "Bearer …"). A function, which may be async and must not
                block, is asked anew for each stream: so a worker outlives its tokens.
            queues: queues to take from; none for all.
            concurrency: how many tasks run at once; None for what MAX_CONCURRENT_TASKS of the environment says, or 10.
            worker_id: unique among running workers; made from host and process when empty.
            all_tenants: ask for every tenant's tasks; only the mesh's own agent workers may.
            drain_seconds: how long running tasks may still take after `stop`.
            around: entered around each run, which reads its inputs, calls its function and uploads its result, such as for calls
                on somebody's behalf.

        Raises:
            ValueError: not exactly one way to connect, or a concurrency that is no whole number from 1 on.
        """
        if sum((bool(target), channel is not None, open_channel is not None)) != 1:
            raise ValueError("give exactly one of target, channel and open_channel")
        self.calls = Calls(self._calling)
        """what runs ask of the scheduler."""
        self.worker_id = worker_id or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._open_channel = open_channel or opener(target, channel, credentials)
        self._metadata = metadata
        # The same token again would end at the same time.
        self._renewable = callable(metadata) or all(name.lower() != "authorization" for name, _ in metadata)
        self._queues = tuple(queues)
        self._concurrency = _concurrency(concurrency)
        self._all_tenants = all_tenants
        self._drain_seconds = drain_seconds
        self._around = around
        self._functions: dict[str, TaskFunction] = {}
        self._reports = Reports()
        self._runs: set[Run] = set()
        self._newest: dict[str, Run] = {}
        """the run of each task's newest attempt."""
        self._stream: Stream | None = None
        """the stream on which everything is told: the newest that was welcomed."""
        self._connections: dict[Stream, Connection] = {}
        """of the streams that are open, each of which holds its own."""
        self._open_streams: dict[Stream, asyncio.Task[grpc.aio.AioRpcError | None]] = {}
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._lease = 15.0
        self._interval = 5.0
        self._patience = 1
        """for how many heartbeat intervals silence is borne; more after each stream that was opened in vain."""
        self._ever_welcomed = False
        self._suspicious = False
        self._made_room = False
        """whether runs ended since credits were last reckoned: that is done once a message, not once a run."""

    def task(self, kind: str) -> Callable[[F], F]:
        """Registers an async function for tasks of `kind`; what it returns (a JSON value) is the task's result."""

        def register(function: F) -> F:
            if kind in self._functions:
                raise ValueError(f"kind {kind!r} has a function already")
            self._functions[kind] = function
            return function

        return register

    @property
    def running(self) -> int:
        """How many tasks run now."""
        return len(self._runs)

    @property
    def connected(self) -> bool:
        """Whether the scheduler has welcomed the current stream, and answers on it."""
        return self._stream is not None and not self._stream.mute

    @property
    def lease_seconds(self) -> float:
        """How long a lease lasts without a heartbeat."""
        return self._lease

    async def run(self) -> None:
        """Works until `stop`, reconnecting for ever; when cancelled it stops what runs at once.

        Raises:
            WorkerRefused: the scheduler does not let this worker in.
            ValueError: no function is registered.
        """
        if not self._functions:
            raise ValueError("register at least one function with @worker.task(kind)")
        try:
            await self._work()
        finally:
            await self._cancel_runs("WORKER_STOPPED")

    def stop(self) -> None:
        """Takes no more tasks; `run` returns when the running ones have ended, or after `drain_seconds`."""
        self._stopping.set()
        if self._stream is not None:
            self._stream.drain()

    async def tell_step(self, task: Task, step_id: str, result: JsonValue) -> Value:
        """Puts a step into the journal; for Task.step."""
        value = to_value(result)
        step = pb.TaskStep(task_id=task.task_id, attempt=task.attempt, step_id=step_id, result=value)
        future = self._reports.add_awaited(step)
        told_at = asyncio.get_running_loop().time()
        self._send(step)
        refusal = await future
        if refusal is not None:
            raise StepRefused(refusal.reason, refusal.message)
        if (run := self._run_of(task.task_id, task.attempt)) is not None:
            run.heard(told_at)
        return value

    def tell_output(self, chunk: pb.TaskOutputChunk) -> asyncio.Future[pb.TaskRefusal | None]:
        """Tells a chunk of output; for Task.output."""
        future = self._reports.add_awaited(chunk)
        told_at = asyncio.get_running_loop().time()

        def heard(answer: asyncio.Future[pb.TaskRefusal | None]) -> None:
            run = self._run_of(chunk.task_id, chunk.attempt)
            if run is not None and not answer.cancelled() and answer.result() is None:
                run.heard(told_at)

        future.add_done_callback(heard)
        self._send(chunk)
        return future

    async def _work(self) -> None:
        connection = await Connection(self._open_channel).open()
        stopper = asyncio.create_task(self._stop_when_asked())
        watch = asyncio.create_task(self._watch())
        pause = _FIRST_PAUSE
        try:
            while not stopper.done():
                stream = Stream(self._hello(), self._offer_room)
                talking = self._open(connection, stream)
                replace = asyncio.create_task(stream.replace.wait())
                await asyncio.wait({talking, stopper, replace}, return_when=asyncio.FIRST_COMPLETED)
                replace.cancel()
                if stream.mute:
                    connection = await self._another(connection)
                if not talking.done():
                    # We stop, or the token ends, or nobody answers: then the next stream takes over and closes this one.
                    talking.add_done_callback(self._replaced_ended)
                    continue
                problem = talking.result()
                if problem is not None:
                    self._judge(problem)
                    log.warning("worker %s lost its stream: %s %s", self.worker_id, problem.code().name, problem.details())
                pause = _FIRST_PAUSE if stream.welcomed.is_set() else min(pause * 2, _LONGEST_PAUSE)
                with contextlib.suppress(TimeoutError):
                    # Full jitter: a restarted scheduler does not meet all its workers at once.
                    await asyncio.wait_for(asyncio.shield(stopper), pause * random.uniform(0.5, 1.5))  # noqa: S311
        finally:
            rest = [stopper, watch, *self._open_streams.values()]
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            await connection.release()

    async def _another(self, connection: Connection) -> Connection:
        """Another connection; the one before closes when its streams have ended."""
        try:
            other = await Connection(self._open_channel).open()
        except Exception:
            log.warning("worker %s cannot open another connection", self.worker_id, exc_info=True)
            return connection
        await connection.release()
        return other

    def _open(self, connection: Connection, stream: Stream) -> asyncio.Task[grpc.aio.AioRpcError | None]:

        def over(_: asyncio.Task[grpc.aio.AioRpcError | None]) -> None:
            del self._open_streams[stream]
            # The credits it held are free again.
            self._offer()

        connection.hold()
        talking = self._open_streams[stream] = asyncio.create_task(self._talk(connection, stream))
        talking.add_done_callback(over)
        return talking

    def _replaced_ended(self, talking: asyncio.Task[grpc.aio.AioRpcError | None]) -> None:
        if not talking.cancelled() and (error := talking.exception()) is not None:
            log.error("worker %s: a replaced stream broke", self.worker_id, exc_info=error)

    def _judge(self, problem: grpc.aio.AioRpcError) -> None:
        """Decides whether another stream may fare better."""
        invalid = problem.code() is grpc.StatusCode.INVALID_ARGUMENT
        if not self._ever_welcomed and (problem.code() in _REFUSED or invalid):
            raise WorkerRefused(f"{problem.code().name}: {problem.details()}") from problem
        if not invalid:
            return
        # One of the reports is not accepted. They are told one by one until it is found, then it fails alone.
        if self._suspicious and len(self._reports):
            self._drop(self._reports.all()[0], problem.details() or "not accepted")
        self._suspicious = True

    def _drop(self, report: Report, message: str) -> None:
        task_id, attempt = report.task_id, report.attempt
        if isinstance(report, pb.TaskCompletion):
            self._reports.replace(failure(task_id, attempt, "INVALID_RESULT", message, retryable=False))
        elif isinstance(report, pb.TaskWait):
            self._reports.replace(failure(task_id, attempt, "INVALID_WAIT", message, retryable=False))
        else:
            refusal = pb.TaskRefusal(task_id=task_id, attempt=attempt, reason="INVALID_ARGUMENT", message=message)
            self._reports.answer(key_of(report), refusal)

    def _hello(self) -> pb.WorkerHello:
        return pb.WorkerHello(
            worker_id=self.worker_id, queues=self._queues, kinds=sorted(self._functions), all_tenants=self._all_tenants
        )

    async def _talk(self, connection: Connection, stream: Stream) -> grpc.aio.AioRpcError | None:
        """One stream, from hello to its end; gives the error that ended it."""
        try:
            metadata = await self._fresh_metadata()
        except Exception:
            await connection.release()
            if not self._ever_welcomed:
                raise
            log.warning("worker %s has no metadata for its next stream", self.worker_id, exc_info=True)
            return None
        stub: pb_grpc.WorkerServiceAsyncStub = pb_grpc.WorkerServiceStub(connection.channel)
        call = stub.Work(stream.requests(), metadata=tuple(metadata))
        beating = asyncio.create_task(self._beat(stream))
        self._connections[stream] = connection
        try:
            async with stream.limited(max(1.0, self._interval) * self._patience):
                async for response in call:
                    self._hear(response, stream)
        except grpc.aio.AioRpcError as error:
            return error
        except TimeoutError:
            if not stream.welcomed.is_set():
                self._give_up(stream, "is not welcomed")
        finally:
            if self._stream is stream:
                self._stream = None
            del self._connections[stream]
            beating.cancel()
            call.cancel()
            stream.close()
            await asyncio.gather(beating, return_exceptions=True)
            await connection.release()
        return None

    @contextlib.asynccontextmanager
    async def _calling(self) -> AsyncIterator[tuple[grpc.aio.Channel, tuple[tuple[str, str], ...]]]:
        """The channel of the stream on which everything is told, kept open meanwhile."""
        connection = self._connections.get(self._stream) if self._stream is not None else None
        if connection is None:
            raise ConnectionError("no scheduler has welcomed this worker")
        connection.hold()
        try:
            yield connection.channel, tuple(await self._fresh_metadata())
        finally:
            await connection.release()

    async def _fresh_metadata(self) -> Metadata:
        given = self._metadata() if callable(self._metadata) else self._metadata
        return await given if inspect.isawaitable(given) else given

    def _take_over(self, stream: Stream) -> None:
        """Makes a welcomed stream the one on which everything is told, and closes the one before."""
        before, self._stream = self._stream, stream
        stream.beat(self._heartbeats(again=True))
        self._suspicious = self._suspicious and len(self._reports) > 0
        stream.report(self._reports.first() if self._suspicious else self._reports.all())
        if self._stopping.is_set():
            stream.drain()
        if before is not None:
            before.end()
            # What it was promised may still reach a stream that speaks. One that does not may not hold our credits.
            before.give_up(0.0 if before.mute else self._lease)
        self._offer()

    def _heartbeats(self, *, again: bool = False) -> list[pb.TaskHeartbeat]:
        return [run.heartbeat(again=again) for run in self._runs if run.keeps_its_lease]

    def _run_of(self, task_id: str, attempt: int) -> Run | None:
        """The run of an attempt; None for an older one, too, which has been stopped for the newest."""
        run = self._newest.get(task_id)
        return run if run is not None and run.task.attempt == attempt else None

    def _hear(self, response: pb.WorkResponse, stream: Stream) -> None:
        if response.HasField("welcome"):
            self._lease = response.welcome.lease_duration.ToTimedelta().total_seconds()
            self._interval = response.welcome.heartbeat_interval.ToTimedelta().total_seconds()
            self._ever_welcomed = True
            stream.welcome()
            self._take_over(stream)
        for renewal in response.renewals:
            sent = stream.renewed(renewal.task_id, renewal.attempt)
            run = self._run_of(renewal.task_id, renewal.attempt)
            if run is not None and sent is not None:
                run.renewed(sent + self._lease)
        for cancel in response.cancels:
            run = self._run_of(cancel.task_id, cancel.attempt)
            stream.forget(cancel.task_id, cancel.attempt)
            if run is not None:
                run.stop(cancel.reason)
        answer = self._reports.answer
        for ack in response.acks:
            answer((ack.task_id, ack.attempt, ack.step_id), None)
        for refusal in response.refusals:
            log.warning("task %s attempt %d: %s", refusal.task_id, refusal.attempt, refusal.message)
            if not self._fail_instead(refusal):
                answer((refusal.task_id, refusal.attempt, refusal.step_id), refusal)
        for each in response.outputs:
            refused = None
            if each.reason:
                refused = pb.TaskRefusal(task_id=each.task_id, attempt=each.attempt, reason=each.reason, message=each.message)
            answer((each.task_id, each.attempt, each.sequence), refused)
        self._start(response.leases, stream)
        if response.acks or response.refusals or response.outputs:
            self._answered(stream)
        if response.renewals or response.acks or response.refusals or response.cancels or response.outputs:
            self._patience = 1
        stream.heard(waiting=len(self._reports) > 0)
        if response.drain and not stream.draining:
            stream.draining = True
            stream.end()
        if response.HasField("renew_token") and self._renewable:
            stream.replace.set()

    def _fail_instead(self, refusal: pb.TaskRefusal) -> bool:
        """Whether the attempt is still ours, and is told to have failed, since its result is a payload that is not there."""
        key = (refusal.task_id, refusal.attempt, refusal.step_id)
        if refusal.reason != "PAYLOAD_NOT_FOUND" or not isinstance(self._reports.get(key), pb.TaskCompletion):
            return False
        told = f"The result was stored as a payload that is not there any more: {refusal.message}"
        report = failure(refusal.task_id, refusal.attempt, "RESULT_LOST", told, retryable=True)
        self._reports.replace(report)
        self._send(report)
        return True

    def _answered(self, stream: Stream) -> None:
        if self._suspicious and stream is self._stream:
            self._suspicious = len(self._reports) > 1
            stream.report(self._reports.first())
        self._offer()

    def _offer_room(self) -> None:
        if self._made_room:
            self._offer()

    def _offer(self) -> None:
        """Gives credits for what could run besides what runs and what is promised."""
        self._made_room = False
        stream = self._stream
        if stream is None or stream.draining or stream.mute or self._stopping.is_set():
            return
        # A scheduler that does not acknowledge gets no more work to have acknowledged.
        if len(self._reports) > 10 * self._concurrency + 100:
            return
        # A stream that was replaced may still bring what it was promised.
        free = self._concurrency - len(self._runs) - sum(each.outstanding for each in self._open_streams if not each.mute)
        if free > 0:
            stream.give_credits(free)

    def _start(self, leases: Iterable[pb.TaskLease], stream: Stream) -> None:
        # The lease began before it was heard of: earlier is safe.
        now = asyncio.get_running_loop().time()
        for lease in leases:
            stream.outstanding -= 1
            task = Task(lease, self, now)
            run = Run(task, now + self._lease, self._ended)
            other = self._newest.get(task.task_id)
            if other is not None:
                # Only one attempt is valid, and it is the newest.
                other.stop("STALE_ATTEMPT")
            self._newest[task.task_id] = run
            self._runs.add(run)
            self._idle.clear()
            run.start(self._run(run))

    def _ended(self, run: Run) -> None:
        """Makes room; told twice of a run that was stopped."""
        if run not in self._runs:
            return
        self._runs.remove(run)
        task = run.task
        if self._newest.get(task.task_id) is run:
            del self._newest[task.task_id]
        if run.beaten:
            for stream in self._open_streams:
                stream.forget(task.task_id, task.attempt)
        if not self._runs:
            self._idle.set()
        self._made_room = True
        if self._stream is not None:
            self._stream.wake()

    async def _watch(self) -> None:
        """Stops what would outlive its lease, and leaves a stream on which nobody answers: a look every now and then."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._lease / 20)
            # With room to spare.
            now = loop.time()
            for run in list(self._runs):
                run.check(now, self._lease / 5)
            stream = self._stream
            if stream is None or stream.mute:
                continue
            stream.beat([run.heartbeat() for run in self._runs if run.keeps_its_lease and run.has_urgent_news(now)])
            if stream.silence() > self._interval * self._patience or stream.unanswered() > self._lease * self._patience:
                self._give_up(stream, "hears nothing")

    def _give_up(self, stream: Stream, why: str) -> None:
        """Has another stream opened on another connection."""
        log.warning("worker %s %s on its stream: it opens another", self.worker_id, why)
        stream.mute = True
        # Where nobody answers at all, as while the database hangs, ever more streams would help nobody.
        self._patience = min(_MOST_PATIENCE, self._patience * 2)
        stream.replace.set()

    async def _run(self, run: Run) -> None:
        """Runs a function and tells how it ended."""
        task = run.task
        report: Report | None = None
        try:
            function = self._functions[task.message.kind]
            if self._around is None:
                report = await outcome(task, function)
            else:
                with self._around(task):
                    report = await outcome(task, function)
            task.end_output(keep=report is not None)
        finally:
            # Here and not in a callback, which would be one more for each task.
            self._ended(run)
        if report is not None:
            self._reports.add(report, (task.task_id, task.attempt, ""))
            self._send(report)

    def _send(self, report: Report) -> None:
        stream = self._stream
        if stream is not None and not stream.draining and not self._suspicious:
            stream.report((report,))

    async def _beat(self, stream: Stream) -> None:
        # The welcome says how often.
        await stream.welcomed.wait()
        while True:
            await asyncio.sleep(self._interval)
            if stream is not self._stream:
                return
            stream.beat(self._heartbeats())

    async def _stop_when_asked(self) -> None:
        await self._stopping.wait()
        try:
            async with asyncio.timeout(self._drain_seconds):
                await self._idle.wait()
        except TimeoutError:
            await self._cancel_runs("WORKER_STOPPED")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._reports.answered()

    async def _cancel_runs(self, reason: str) -> None:
        runs = list(self._runs)
        for run in runs:
            run.stop(reason)
        await asyncio.gather(*(run.running for run in runs), return_exceptions=True)


def _concurrency(given: int | None) -> int:
    """What the caller chose, or else the environment, as for the mesh's own workers."""
    if given is None:
        said = os.environ.get(_CONCURRENCY_VARIABLE, "").strip()
        if said and not (said.isascii() and said.isdigit() and int(said) >= 1):
            raise ValueError(f"{_CONCURRENCY_VARIABLE} is {said!r}: set it to a whole number from 1 on, or give concurrency")
        return int(said) if said else _DEFAULT_CONCURRENCY
    if given < 1:
        raise ValueError("concurrency must be at least 1")
    return given
