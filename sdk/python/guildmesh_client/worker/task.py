"""What a task function gets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from guildmesh.scheduler.v1 import task_pb2
from guildmesh.scheduler.v1 import worker_service_pb2 as pb

from guildmesh_client.worker.json_values import JsonObject, JsonValue, from_struct, from_value

if TYPE_CHECKING:
    from guildmesh_client.worker.worker import Worker


class Task:
    """One attempt of a task, as its function sees it.

    Attributes:
        message: the task as the scheduler tells it, with tenant_id, labels, created_by and the rest.
        traceparent: W3C trace context of the task's creation, or empty.
        stop_reason: why the attempt is being stopped, once it is: CANCELLED, TIMEOUT, STALE_ATTEMPT, LEASE_ENDED, WORKER_STOPPED.
    """

    def __init__(self, lease: pb.TaskLease, worker: Worker) -> None:
        self.message: task_pb2.Task = lease.task
        self.traceparent = lease.traceparent
        self.stop_reason = ""
        self.told_progress: float | None = None
        self._worker = worker
        self._steps = {step.step_id: step.result for step in lease.steps}
        self._ends = asyncio.get_running_loop().time() + lease.remaining.seconds + lease.remaining.nanos / 1e9

    @property
    def task_id(self) -> str:
        """Id of the task."""
        return self.message.task_id

    @property
    def attempt(self) -> int:
        """Which start of the task this is: the fencing token of everything it does."""
        return self.message.attempt

    @property
    def description(self) -> str:
        """The task text."""
        return self.message.description

    @property
    def context(self) -> JsonObject:
        """The task's input."""
        return from_struct(self.message.context)

    @property
    def remaining(self) -> float:
        """Seconds that the run may still take before its timeout, by this machine's monotonic clock."""
        return max(0.0, self._ends - asyncio.get_running_loop().time())

    @property
    def journal(self) -> dict[str, JsonValue]:
        """The steps that are done, by this attempt and the ones before."""
        return {step_id: from_value(result) for step_id, result in self._steps.items()}

    def progress(self, share: float) -> None:
        """Tells how much is done, 0 to 1, with the next heartbeat."""
        self.told_progress = min(1.0, max(0.0, share))

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
