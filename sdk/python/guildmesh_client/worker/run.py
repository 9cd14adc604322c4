"""One attempt that runs on this worker, and the end of its lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine

from guildmesh.scheduler.v1 import worker_service_pb2 as pb

from guildmesh_client.worker.task import Task

log = logging.getLogger(__name__)

_SPARE = 0.05
_PROGRESS_SECONDS = 1.0


class Run:
    """One attempt that runs, and the end of its lease."""

    __slots__ = (
        "_beaten_at", "_ends", "_heard", "_known", "_over", "_quiet", "_sent", "_timer", "_until", "beaten", "running", "task",
    )  # fmt: skip

    running: asyncio.Task[None]
    """what runs its function, once it has been started."""

    def __init__(self, task: Task, leased_until: float, over: Callable[[Run], None]) -> None:
        """Describes an attempt; `over` is told of its end when it ends without having begun."""
        self.task = task
        self.beaten = False
        """whether a heartbeat was ever told of it."""
        self._until = leased_until
        self._over = over
        # A share of each limit is left, since the scheduler began to count a little before.
        self._ends = float("inf")
        if task.message.HasField("attempt_timeout"):
            self._ends = task.told_at + task.remaining - task.message.attempt_timeout.ToMilliseconds() / 1000 * _SPARE
        self._quiet: float | None = None
        if task.message.HasField("heartbeat_timeout"):
            self._quiet = task.message.heartbeat_timeout.ToMilliseconds() / 1000
        self._timer: asyncio.TimerHandle | None = None
        # When progress was told that was sent last, and that the scheduler surely knows; and its last certain sign of life.
        self._sent = self._known = self._heard = self._beaten_at = task.told_at

    def start(self, work: Coroutine[object, object, None]) -> None:
        """Runs `work`, which is to say itself when it is over."""
        self.running = asyncio.get_running_loop().create_task(work)
        if self._quiet is not None or self._ends < float("inf"):
            # To the moment, since the spare of a short limit is less than what lies between two looks at all runs.
            self._keep_limits()
            self.running.add_done_callback(lambda _: self._stop_timer())

    @property
    def keeps_its_lease(self) -> bool:
        """Whether to send heartbeats: not when the attempt is over, or its lease may be another's."""
        return self.task.stop_reason in ("", "WORKER_STOPPED") and not self.running.done()

    def heartbeat(self, *, again: bool = False) -> pb.TaskHeartbeat:
        """What to tell of it: its progress when there is some that the scheduler may not know, or `again` what it was told."""
        self.beaten = True
        task = self.task
        beat = pb.TaskHeartbeat(task_id=task.task_id, attempt=task.attempt)
        if task.told_progress is not None and (again or task.told_at != self._known):
            beat.progress = task.told_progress
        self._sent = task.told_at
        self._beaten_at = asyncio.get_running_loop().time()
        return beat

    def renewed(self, until: float) -> None:
        """A heartbeat was answered: the lease lasts until then, by the monotonic clock, and what it told is known."""
        self._until = max(self._until, until)
        self._known = self._sent
        self._heard = max(self._heard, self._sent)

    def heard(self, moment: float) -> None:
        """The scheduler knows of a step that was told then."""
        self._heard = max(self._heard, moment)

    def has_urgent_news(self, now: float) -> bool:
        """Whether the scheduler should hear before the next heartbeat of progress, or that the work goes on."""
        if self.task.told_at == self._sent:
            return False
        pause = _PROGRESS_SECONDS if self._quiet is None else min(_PROGRESS_SECONDS, self._quiet / 4)
        return now - self._beaten_at > pause

    def stop(self, reason: str) -> None:
        """Cancels the function."""
        if not self.task.stop_reason:
            self.task.stop_reason = reason
            self.running.cancel()
            # What is cancelled before its first step never runs a line that could say that it is over.
            self.running.add_done_callback(lambda _: self._over(self))

    def check(self, now: float, spare: float) -> None:
        """Cancels the function when its lease ends within `spare` seconds."""
        if not self.task.stop_reason and self._until <= now + spare:
            log.warning("task %s attempt %d: the lease ends without a renewal", self.task.task_id, self.task.attempt)
            self.stop("LEASE_ENDED")

    def _keep_limits(self) -> None:
        """Cancels the function when one of the attempt's own limits has passed, or looks again when the next one may have.

        The scheduler sees to the limits, too; but what it says may not arrive, and the next attempt must not run beside this one.
        """
        if self.task.stop_reason:
            return
        loop = asyncio.get_running_loop()
        quiet_ends = float("inf") if self._quiet is None else self._heard + self._quiet * (1 - _SPARE)
        now = loop.time()
        if self._ends <= now:
            self.stop("ATTEMPT_TIMEOUT")
        elif quiet_ends <= now:
            self.stop("HEARTBEAT_TIMEOUT")
        else:
            self._timer = loop.call_at(min(self._ends, quiet_ends), self._keep_limits)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
