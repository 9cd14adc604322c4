"""What a task function gets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from google.protobuf.struct_pb2 import Value
from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as pb

from guildmesh_client.worker.dependency import Dependency
from guildmesh_client.worker.errors import Parked, TaskFailed
from guildmesh_client.worker.json_values import JsonObject, JsonValue, from_struct, from_value, put_large
from guildmesh_client.worker.large_values import TROUBLES, not_read, not_stored, persistently
from guildmesh_client.worker.output import Output

if TYPE_CHECKING:
    from guildmesh_client.worker.worker import Worker


class Task:
    """One attempt of a task, as its function sees it.

    Attributes:
        message: the task as the scheduler tells it, with tenant_id, labels, created_by and the rest.
        task_id: id of the task.
        attempt: which start of the task this is: the fencing token of everything it does.
        stop_reason: why the attempt is being stopped, once it is: CANCELLED, TIMEOUT, DEADLINE_EXCEEDED, ATTEMPT_TIMEOUT,
            HEARTBEAT_TIMEOUT, STALE_ATTEMPT, LEASE_ENDED, WORKER_STOPPED.
    """

    def __init__(self, lease: pb.TaskLease, worker: Worker, moment: float) -> None:
        """Describes a lease that came at `moment`, by the monotonic clock."""
        message: task_pb2.Task = lease.task
        self.message = message
        # Read once: a field of a message is decoded anew each time.
        self.task_id = message.task_id
        self.attempt = message.attempt
        self.stop_reason = ""
        self.told_progress: float | None = None
        self.told_at = moment
        """when something was told of it last, by the monotonic clock."""
        self._worker = worker
        self._lease = lease
        self._moment = moment
        self._context: JsonObject | None = None
        self._output: Output | None = None

    @property
    def traceparent(self) -> str:
        """W3C trace context of the task's creation, or empty."""
        return self._lease.traceparent

    @property
    def description(self) -> str:
        """The task text."""
        return self.message.description

    @property
    def context(self) -> JsonObject:
        """The task's input."""
        if self._context is not None:
            return self._context
        return from_struct(self.message.context)

    async def fetch(self) -> None:
        """Gets what the task names instead of carrying it, before its function is called.

        Raises:
            TaskFailed: it cannot be had.
        """
        if self.message.context_payload:
            found = await self._download("The context", self.message.context_payload)
            if not isinstance(found, dict):
                raise TaskFailed("INVALID_CONTEXT", "The payload that is the context is no JSON object.", retryable=False)
            self._context = found
        for each in self._lease.dependencies:
            if each.result_payload:
                put_large(each.result, await self._download(f"The result of the dependency {each.name!r}", each.result_payload))

    async def upload(self, value: JsonValue) -> str:
        """Keeps a value that is too large for a message, and gives the id of the payload.

        Raises:
            TaskFailed: it cannot be kept.
        """
        try:
            return await persistently(lambda: self._worker.calls.upload(value), self._worker.lease_seconds)
        except TROUBLES as error:
            raise not_stored(error) from error

    async def _download(self, what: str, payload_id: str) -> JsonValue:
        try:
            return await persistently(lambda: self._worker.calls.download(payload_id), self._worker.lease_seconds)
        except (*TROUBLES, ValueError) as error:
            raise not_read(what, error) from error

    @cached_property
    def dependencies(self) -> Mapping[str, Dependency]:
        """How the tasks that this one waited for have ended, by their names, in the order in which it was given them."""
        return {each.name: Dependency.of(each) for each in self._lease.dependencies}

    async def result_of(self, name: str) -> JsonValue:
        """The result of a dependency by its name, wherever it is: one that had no room in the lease is read from the scheduler.

        Raises:
            KeyError: the task has no dependency of this name.
            ResultOmitted: it is not kept any more, or this worker may not read it.
            ConnectionError, grpc.aio.AioRpcError: the scheduler cannot be reached.
        """
        dependency = self.dependencies[name]
        if not dependency.result_omitted:
            return dependency.result
        return await self._worker.calls.read_result(dependency.task_id)

    @property
    def remaining(self) -> float:
        """Seconds that the attempt may still take before the first of its timeouts, by this machine's monotonic clock."""
        left = self._lease.remaining
        return max(0.0, self._moment + left.seconds + left.nanos / 1e9 - asyncio.get_running_loop().time())

    @property
    def journal(self) -> dict[str, JsonValue]:
        """The steps that are done, by this attempt and the ones before."""
        return {step_id: from_value(result) for step_id, result in self._steps.items()}

    def progress(self, share: float) -> None:
        """Tells how much is done, 0 to 1; under a heartbeat_timeout also that the work goes on.

        It goes out within about a second, and is an event of the task when it has changed by 1 % at least.
        """
        self.told_progress = min(1.0, max(0.0, share))
        self.told_at = asyncio.get_running_loop().time()

    async def output(self, text: str) -> None:
        """Puts out text, such as that of a language model while it comes: who watches the task sees it, as its events.

        What comes within 100 ms or 4 KiB is one event. A task that puts out faster than the scheduler keeps waits here.

        Raises:
            StepRefused: this attempt is over.
            ValueError: it is no text that UTF-8 can write.
        """
        if self._output is None:
            self._output = Output(self.task_id, self.attempt, self._worker.tell_output)
        await self._output.write(text)

    def end_output(self, *, keep: bool) -> None:
        """Sends what is left of the output, or forgets it; for Worker, before it tells the end of the attempt."""
        if self._output is not None:
            self._output.flush() if keep else self._output.drop()

    @cached_property
    def _steps(self) -> dict[str, Value]:
        return {step.step_id: step.result for step in self._lease.steps}

    async def wait_for(self, signal: str, *, prompt: str = "", timeout: float | None = None) -> JsonValue:
        """Gives the value of a signal of the task, such as a person's approval (SignalTask), and waits for it if need be.

        While it waits no worker is kept: the attempt ends here, and when the signal is there the function is called again from
        its beginning, in which `step` gives what was done. What comes before it and is no step is done again.

        Args:
            signal: its name, which no step may have.
            prompt: what is asked of people.
            timeout: seconds to wait; 366 days when None.

        Raises:
            TimeoutError: it did not come in time.
        """
        if signal not in self._steps:
            raise Parked(signal, prompt, timeout)
        fields = self._steps[signal].struct_value.fields
        if "timed_out" in fields:
            raise TimeoutError(f"the signal {signal!r} did not come in time")
        return from_value(fields["value"])

    async def step(self, step_id: str, work: Callable[[], Awaitable[JsonValue]]) -> JsonValue:
        """Does `work` once for all attempts: its result is in the journal before this returns, and no later attempt repeats it.

        Between the work and the journal a crash may still come, so what `work` does should be safe to repeat.

        Raises:
            StepRefused: this attempt is over, or the result is not accepted.
            ValueError: the result is not a JSON value of at most 1 MiB.
        """
        if step_id not in self._steps:
            result = await work()
            self._steps[step_id] = await self._worker.tell_step(self, step_id, result)
        return from_value(self._steps[step_id])
