"""One attempt that runs on this worker, and the end of its lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from guildmesh.scheduler.v1 import worker_service_pb2 as pb

from guildmesh_client.worker.task import Task

log = logging.getLogger(__name__)


class Run:
    """One attempt that runs, and the end of its lease."""

    __slots__ = ("_over", "_until", "beaten", "running", "task")

    running: asyncio.Task[None]
    """what runs its function, once it has been started."""

    def __init__(self, task: Task, leased_until: float, over: Callable[[Run], None]) -> None:
        """Describes an attempt; `over` is told of its end when it ends without having begun."""
        self.task = task
        self.beaten = False
        """whether a heartbeat was ever told of it."""
        self._until = leased_until
        self._over = over

    def start(self, work: Coroutine[object, object, None]) -> None:
        """Runs `work`, which is to say itself when it is over."""
        self.running = asyncio.get_running_loop().create_task(work)

    @property
    def keeps_its_lease(self) -> bool:
        """Whether to send heartbeats: not when the attempt is over, or its lease may be another's."""
        return self.task.stop_reason in ("", "WORKER_STOPPED") and not self.running.done()

    def heartbeat(self) -> pb.TaskHeartbeat:
        """What to tell of it."""
        self.beaten = True
        beat = pb.TaskHeartbeat(task_id=self.task.task_id, attempt=self.task.attempt)
        if self.task.told_progress is not None:
            beat.progress = self.task.told_progress
        return beat

    def leased_until(self, moment: float) -> None:
        """Moves the end of the lease, by the monotonic clock."""
        self._until = max(self._until, moment)

    def stop(self, reason: str) -> None:
        """Cancels the function."""
        if not self.task.stop_reason:
            self.task.stop_reason = reason
            self.running.cancel()
            # What is cancelled before its first step never runs a line that could say that it is over.
            self.running.add_done_callback(lambda _: self._over(self))

    def check_lease(self, moment: float) -> None:
        """Cancels the function when its lease ends before `moment`, by the monotonic clock."""
        if self._until <= moment and not self.task.stop_reason:
            log.warning("task %s attempt %d: the lease ends without a renewal", self.task.task_id, self.task.attempt)
            self.stop("LEASE_ENDED")
