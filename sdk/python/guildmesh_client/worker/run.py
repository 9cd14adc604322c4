"""One attempt that runs on this worker, and the end of its lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

from guildmesh.scheduler.v1 import worker_service_pb2 as pb

from guildmesh_client.worker.task import Task

log = logging.getLogger(__name__)


class Run:
    """One attempt that runs, and the end of its lease."""

    def __init__(self, task: Task, work: Coroutine[object, object, None], leased_until: float) -> None:
        self.task = task
        self.running = asyncio.create_task(work)
        self._until = leased_until

    @property
    def keeps_its_lease(self) -> bool:
        """Whether to send heartbeats: not when the attempt is over, or its lease may be another's."""
        return self.task.stop_reason in ("", "WORKER_STOPPED")

    def heartbeat(self) -> pb.TaskHeartbeat:
        """What to tell of it."""
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

    def check_lease(self, moment: float) -> None:
        """Cancels the function when its lease ends before `moment`, by the monotonic clock."""
        if self._until <= moment and not self.task.stop_reason:
            log.warning("task %s attempt %d: the lease ends without a renewal", self.task.task_id, self.task.attempt)
            self.stop("LEASE_ENDED")
