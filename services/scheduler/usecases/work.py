"""Work: the stream of one worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from services.common.errors import CallerNotAllowed, TokenExpired
from services.scheduler.domain.errors import HelloRequired
from services.scheduler.domain.ports import Demand
from services.scheduler.domain.run import Run
from services.scheduler.domain.task import Lease
from services.scheduler.domain.wake import Wake
from services.scheduler.domain.worker import (
    CompletionReport,
    FailureReport,
    Heartbeat,
    Hello,
    OutputReport,
    ProgressReport,
    Refusal,
    Report,
    SchedulerMessage,
    StepReport,
    WaitReport,
    WorkerMessage,
)
from services.scheduler.usecases.dispatch import MOST_CREDITS, Dispatcher
from services.scheduler.usecases.group_commit import GroupCommit
from services.scheduler.usecases.hub import Hub

_METHOD = "/guildmesh.scheduler.v1.WorkerService/Work"
_MOST_UNANSWERED = 2000
# Of the events of one task that tell its progress: so far apart, and for so much of a change.
_PROGRESS_SECONDS = 1.0
_PROGRESS_SHARE = 0.01 - 1e-9


class Work:
    """What the streams of this process share."""

    def __init__(
        self,
        reports: GroupCommit[Report, Refusal | None],
        completions: GroupCommit[Report, Refusal | None],
        heartbeats: GroupCommit[Heartbeat, str],
        dispatcher: Dispatcher,
        hub: Hub,
        lease: timedelta,
        heartbeat: timedelta,
        token_renewal: timedelta,
    ) -> None:
        self.reports = reports
        self.completions = completions
        """reports of runs of which nothing else was told, so that their order does not matter."""
        self.heartbeats = heartbeats
        self.dispatcher = dispatcher
        self.lease = lease
        self.heartbeat = heartbeat
        self.token_renewal = token_renewal
        self._streams: set[WorkStream] = set()
        self._draining = False
        hub.listen(self._woken)

    def open(self, tenant_id: str, peer: str, token_ends: float | None = None) -> WorkStream:
        """A new stream of a worker with the certificate of `peer`; its token ends at `token_ends` of the loop's clock."""
        stream = WorkStream(self, tenant_id, peer)
        self._streams.add(stream)
        if token_ends is not None:
            stream.ends(token_ends)
        if self._draining:
            stream.drain()
        return stream

    def closed(self, stream: WorkStream) -> None:
        """Forgets a stream."""
        self._streams.discard(stream)

    async def drain(self) -> None:
        """Leases no more, asks every worker to reconnect elsewhere, and waits until what they told is durable."""
        self._draining = True
        for stream in self._streams:
            stream.drain()
        await self.reports.drained()
        await self.completions.drained()
        await self.heartbeats.drained()

    def _woken(self, wake: Wake) -> None:
        # Without a list (it was too long, or notifications were lost) the next heartbeat finds out.
        for task_id, attempt, reason in wake.stops or ():
            for stream in self._streams:
                stream.stopped(task_id, attempt, reason)


class WorkStream:
    """One worker's stream: takes its messages one after another and gathers what there is to say to it."""

    def __init__(self, work: Work, tenant_id: str, peer: str) -> None:
        self.worker_id = ""
        self.credits = 0
        self._work = work
        self._tenant_id: str | None = tenant_id
        self._peer = peer
        self._demand: Demand | None = None
        self._joined = False
        self._running: dict[str, int] = {}
        self._unchanged: dict[str, Run] = {}
        """runs of which nothing was told since they started."""
        self._progress: dict[str, _Progress] = {}
        """of the runs that have told some."""
        self._out = SchedulerMessage()
        self._leased_at = 0.0
        self._said = asyncio.Event()
        self._unanswered = 0
        self._answered = asyncio.Event()
        self._error: Exception | None = None
        self._closed = False
        self._drained = False
        self._token_timers: list[asyncio.TimerHandle] = []

    async def handle(self, message: WorkerMessage) -> None:
        """Takes a message; returns before its reports are durable, in order that the next may share their commit.

        Raises:
            HelloRequired: the first message has no hello.
            CallerNotAllowed: it asks for every tenant's tasks and is not an agent worker of the mesh.
            TokenExpired: the stream's token has ended.
        """
        if self._error is not None:
            # Whoever does not read its end is not listened to either.
            raise self._error
        if self._demand is None:
            self._greet(message.hello)
        if message.drain:
            self._leave()
        if message.credits and not self._drained:
            self.credits = min(self.credits + message.credits, MOST_CREDITS)
            self._work.dispatcher.more(self._demand_of())
        self._beat(message)
        self._report(message)
        # Back-pressure: a worker that tells faster than the database keeps is not read from.
        while self._unanswered >= _MOST_UNANSWERED and self._error is None:
            self._answered.clear()
            await self._answered.wait()

    async def messages(self) -> AsyncIterator[SchedulerMessage]:
        """What to say to the worker, until the stream is closed and every report has its answer; raises what broke it."""
        while True:
            if self._error is not None:
                raise self._error
            if not self._out.empty():
                message, self._out = self._out, SchedulerMessage()
                self._check_age(message)
                if not message.empty():
                    yield message
                continue
            if self._closed and not self._unanswered:
                return
            self._said.clear()
            await self._said.wait()

    def finish(self) -> None:
        """Says that the worker will tell nothing more; the stream ends when its reports are answered."""
        self._leave()
        self._closed = True
        self._said.set()

    def fail(self, error: Exception) -> None:
        """Ends the stream with an error."""
        self._error = self._error or error
        self._leave()
        self._said.set()
        self._answered.set()

    def close(self) -> None:
        """Lets go of everything. Runs go on: the worker may be back within the lease."""
        self._closed = True
        self._leave()
        for timer in self._token_timers:
            timer.cancel()
        self._work.closed(self)
        self._give_back(self._out.leases)
        self._out = SchedulerMessage()

    def drain(self) -> None:
        """Asks the worker to reconnect elsewhere."""
        self._leave()
        self._out.drain = True
        self._said.set()

    def ends(self, moment: float) -> None:
        """Asks for another stream some time before `moment` of the loop's clock, and fails this one at it."""
        loop = asyncio.get_running_loop()
        left = moment - loop.time()
        # A token that is short-lived throughout is not renewed without a pause.
        notice = min(self._work.token_renewal.total_seconds(), left / 2)
        self._token_timers = [
            loop.call_at(moment - notice, self._renew_token, moment),
            loop.call_at(moment, self.fail, TokenExpired()),
        ]

    def take(self, leases: Sequence[Lease]) -> None:
        """Gets leases of the dispatcher, for which it has claimed credits."""
        if self._closed or self._drained or self._error is not None:
            self._give_back(leases)
            return
        if not self._out.leases:
            self._leased_at = time.monotonic()
        self._out.leases += leases
        for lease in leases:
            run = lease.run
            self._running[run.task_id] = run.attempt
            self._unchanged[run.task_id] = run
        self._said.set()

    def release(self, credits: int) -> None:
        """Gets back credits that the dispatcher has claimed and not spent."""
        if not self._drained:
            self.credits += credits

    def stopped(self, task_id: str, attempt: int, reason: str) -> None:
        """Tells the worker to stop an attempt, if it runs here."""
        if self._running.get(task_id) == attempt:
            self._forget(task_id)
            self._out.cancels.append((task_id, attempt, reason))
            self._said.set()

    def _greet(self, hello: Hello | None) -> None:
        if hello is None or not hello.worker_id or not hello.kinds:
            raise HelloRequired
        if hello.all_tenants:
            if self._peer != "agent":
                raise CallerNotAllowed(self._peer, f"{_METHOD} with all_tenants")
            self._tenant_id = None
        self.worker_id = hello.worker_id
        self._demand = Demand(self._tenant_id, hello.kinds, hello.queues)
        self._out.welcome = (self._work.lease, self._work.heartbeat)
        self._said.set()
        if not self._drained:
            self._joined = True
            self._work.dispatcher.join(self._demand, self)

    def _demand_of(self) -> Demand:
        if self._demand is None:
            raise HelloRequired
        return self._demand

    def _leave(self) -> None:
        self._drained = True
        self.credits = 0
        if self._joined:
            self._joined = False
            self._work.dispatcher.leave(self._demand_of(), self)

    def _renew_token(self, moment: float) -> None:
        self._out.renew_token = timedelta(seconds=max(0.0, moment - asyncio.get_running_loop().time()))
        self._said.set()

    def _beat(self, message: WorkerMessage) -> None:
        """Has heartbeats written. All are answered, in order: from that a worker tells how long a lease lasts."""
        if not message.heartbeats:
            return
        beats = [Heartbeat(self._tenant_id, *beat) for beat in message.heartbeats]
        told: list[Report] = []
        for beat in beats:
            self._running[beat.task_id] = beat.attempt
            if (beat.progress is not None or beat.task_id in self._progress) and self._tells(beat):
                self._unchanged.pop(beat.task_id, None)
                share = self._progress[beat.task_id].told
                told.append(ProgressReport(self._tenant_id, self.worker_id, beat.task_id, beat.attempt, share))
        self._commit(told, self._work.reports)

        def answered(future: asyncio.Future[Sequence[str | Exception]]) -> None:
            for beat, answer in zip(beats, future.result(), strict=True):
                if isinstance(answer, Exception):
                    self.fail(answer)
                    return
                if answer:
                    self.stopped(beat.task_id, beat.attempt, answer)
                else:
                    self._out.renewals.append((beat.task_id, beat.attempt))
            self._said.set()

        self._work.heartbeats.submit_all(beats).add_done_callback(answered)

    def _tells(self, beat: Heartbeat) -> bool:
        """Whether the newest progress is to be an event now: what came too soon after another is told by a later beat."""
        known = self._progress.get(beat.task_id)
        if known is None or known.attempt != beat.attempt:
            known = self._progress[beat.task_id] = _Progress(beat.attempt)
        if beat.progress is not None:
            known.newest = beat.progress
        now = time.monotonic()
        if now - known.told_at < _PROGRESS_SECONDS or abs(known.newest - known.told) < _PROGRESS_SHARE:
            return False
        known.told, known.told_at = known.newest, now
        return True

    def _forget(self, task_id: str) -> None:
        """Forgets a run that is over."""
        self._running.pop(task_id, None)
        self._unchanged.pop(task_id, None)
        self._progress.pop(task_id, None)

    def _report(self, message: WorkerMessage) -> None:
        """Has the reports of a message written: those of one run in their order."""
        tenant, worker, unchanged = self._tenant_id, self.worker_id, self._unchanged
        reports: list[Report] = [StepReport(tenant, worker, *step) for step in message.steps]
        reports += [OutputReport(tenant, worker, *chunk) for chunk in message.outputs]
        for report in reports:
            unchanged.pop(report.task_id, None)
        completions: list[Report] = []
        for task_id, attempt, result in message.completions:
            run = unchanged.pop(task_id, None)
            (reports if run is None else completions).append(CompletionReport(tenant, worker, task_id, attempt, result, run))
        reports += [FailureReport(tenant, worker, *failure) for failure in message.failures]
        reports += [WaitReport(tenant, worker, *wait) for wait in message.waits]
        self._commit(completions, self._work.completions)
        self._commit(reports, self._work.reports)

    def _commit(self, reports: Sequence[Report], commits: GroupCommit[Report, Refusal | None]) -> None:
        if not reports:
            return

        def answered(future: asyncio.Future[Sequence[Refusal | Exception | None]]) -> None:
            self._unanswered -= len(reports)
            self._answered.set()
            self._said.set()
            for report, answer in zip(reports, future.result(), strict=True):
                if isinstance(answer, Exception):
                    # The worker reconnects and tells it again.
                    self.fail(answer)
                    return
                if isinstance(report, OutputReport):
                    self._out.outputs.append((report.task_id, report.attempt, report.sequence, answer))
                    continue
                if isinstance(report, ProgressReport):
                    # That the attempt is over, the answer to its heartbeat says.
                    continue
                step_id = report.step_id if isinstance(report, StepReport) else ""
                if not step_id:
                    self._forget(report.task_id)
                if answer is None:
                    self._out.acks.append((report.task_id, report.attempt, step_id))
                else:
                    self._out.refusals.append((report.task_id, report.attempt, step_id, answer))

        self._unanswered += len(reports)
        commits.submit_all(reports).add_done_callback(answered)

    def _check_age(self, message: SchedulerMessage) -> None:
        """Gives back what waited so long for a slow reader that the worker would misjudge the end of its lease."""
        # A worker stops what it runs when a fifth of the lease, less the time to its next look, is left by its own clock.
        if message.leases and time.monotonic() - self._leased_at > self._work.lease.total_seconds() / 8:
            self._give_back(message.leases)
            # The worker has not heard of them: to it the credits are still there.
            self.release(len(message.leases))
            message.leases = []
            self._work.dispatcher.more(self._demand_of())

    def _give_back(self, leases: Sequence[Lease]) -> None:
        for run in (lease.run for lease in leases):
            self._running.pop(run.task_id, None)
            self._work.reports.submit(
                FailureReport(
                    run.tenant_id,
                    self.worker_id,
                    run.task_id,
                    run.attempt,
                    "WORKER_LOST",
                    "The worker's stream ended before the lease reached it.",
                    retryable=True,
                    back_off=False,
                )
            )


@dataclass(slots=True)
class _Progress:
    """How far a run is, and what of that is an event."""

    attempt: int
    newest: float = 0.0
    told: float = 0.0
    told_at: float = field(default=float("-inf"))
    """when, by the monotonic clock."""
