"""One Work stream: what is told on it and what is heard."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from guildmesh.scheduler.v1 import worker_service_pb2 as pb

from guildmesh_client.worker.reports import Report, put

# A message of the scheduler's server may have 16 MiB.
_MOST_BYTES = 4 << 20
_MOST_REPORTS = 500


class Stream:
    """Gathers what there is to tell while the message before is on its way, and notices when nobody answers."""

    def __init__(self, hello: pb.WorkerHello, offer: Callable[[], None] = lambda: None) -> None:
        """Describes a stream; `offer` is called before each message, to give the credits that it can take along."""
        self.outstanding = 0
        """credits given on this stream and not yet spent."""
        self.draining = False
        """whether the scheduler asked for another stream."""
        self.welcomed = asyncio.Event()
        self.replace = asyncio.Event()
        """set when another stream is to take the place of this one: its token ends, or nobody answers on it."""
        self.mute = False
        """whether nobody answers on it, as far as is known now."""
        self._offer = offer
        self._hello: pb.WorkerHello | None = hello
        self._limit: asyncio.Timeout | None = None
        self._credits = 0
        self._heartbeats: dict[tuple[str, int], pb.TaskHeartbeat] = {}
        self._sent: dict[tuple[str, int], deque[float]] = {}
        self._asking = False
        self._quiet_since = 0.0
        self._reports: deque[Report] = deque()
        self._drain = False
        self._ended = False
        self._closed = False
        self._told = asyncio.Event()
        self._told.set()

    def give_credits(self, number: int) -> None:
        """Lets the scheduler lease that many more tasks."""
        self.outstanding += number
        self._credits += number
        self._told.set()

    def beat(self, heartbeats: Sequence[pb.TaskHeartbeat]) -> None:
        """Sends heartbeats with the next message; of those that still wait for it, the newest of each attempt."""
        now = asyncio.get_running_loop().time()
        for beat in heartbeats:
            key = beat.task_id, beat.attempt
            if key not in self._heartbeats:
                # From here on the lease is counted: a little before it is sent is safe.
                self._sent.setdefault(key, deque()).append(now)
            self._heartbeats[key] = beat
        if heartbeats:
            self._ask()
            self._told.set()

    def report(self, reports: Sequence[Report]) -> None:
        """Sends reports, in order."""
        self._reports += reports
        if reports:
            self._ask()
            self._told.set()

    def wake(self) -> None:
        """Has `offer` called soon."""
        self._told.set()

    def drain(self) -> None:
        """Says that no more tasks are wanted."""
        self._drain = True
        self._told.set()

    def end(self) -> None:
        """Says that nothing more will be told, after what waits has been."""
        self._ended = True
        self._told.set()

    def close(self) -> None:
        """Tells nothing more: the stream is gone. Who waits for the next message of an ended call would wait for ever."""
        self._closed = True
        self._told.set()

    @asynccontextmanager
    async def limited(self, seconds: float) -> AsyncIterator[None]:
        """Raises TimeoutError in the block when nobody says welcome within `seconds`, or when `give_up` says so."""
        try:
            async with asyncio.timeout(seconds) as self._limit:
                yield
        finally:
            self._limit = None

    def welcome(self) -> None:
        """Says that the scheduler has answered hello."""
        self.welcomed.set()
        self._reschedule(None)

    def give_up(self, seconds: float = 0.0) -> None:
        """Lets the stream last `seconds` more at most."""
        self._reschedule(asyncio.get_running_loop().time() + seconds)

    def heard(self, *, waiting: bool) -> None:
        """Notes a sign of life; `waiting` says whether answers are still owed."""
        self.mute = False
        self._asking = waiting
        self._quiet_since = asyncio.get_running_loop().time()

    def silence(self) -> float:
        """Seconds for which nothing at all was heard while an answer was owed."""
        return asyncio.get_running_loop().time() - self._quiet_since if self._asking else 0.0

    def unanswered(self) -> float:
        """Seconds for which the oldest heartbeat has waited for its answer."""
        oldest = min((sent[0] for sent in self._sent.values() if sent), default=None)
        return 0.0 if oldest is None else asyncio.get_running_loop().time() - oldest

    def renewed(self, task_id: str, attempt: int) -> float | None:
        """When the heartbeat was sent that a renewal answers: heartbeats are answered in their order."""
        sent = self._sent.get((task_id, attempt))
        return sent.popleft() if sent else None

    def forget(self, task_id: str, attempt: int) -> None:
        """Forgets the heartbeats of an attempt that is over."""
        self._sent.pop((task_id, attempt), None)
        self._heartbeats.pop((task_id, attempt), None)

    async def requests(self) -> AsyncIterator[pb.WorkRequest]:
        """The messages for the scheduler."""
        while True:
            await self._told.wait()
            self._told.clear()
            if self._closed:
                return
            self._offer()
            while self._waiting():
                yield self._next()
                self._offer()
            if self._ended:
                return

    def _reschedule(self, moment: float | None) -> None:
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(moment)

    def _ask(self) -> None:
        if not self._asking:
            self._asking = True
            self._quiet_since = asyncio.get_running_loop().time()

    def _waiting(self) -> bool:
        return bool(self._hello or self._credits or self._heartbeats or self._reports or self._drain)

    def _next(self) -> pb.WorkRequest:
        request = pb.WorkRequest(hello=self._hello, credits=min(self._credits, 10_000), drain=self._drain)
        self._hello = None
        self._credits -= request.credits
        self._drain = False
        request.heartbeats.extend(self._heartbeats.values())
        self._heartbeats.clear()
        put(request, self._take_reports())
        return request

    def _take_reports(self) -> list[Report]:
        taken: list[Any] = []
        size, put_out = 0, False
        while self._reports and len(taken) < _MOST_REPORTS:
            size += self._reports[0].ByteSize()
            if taken and size > _MOST_BYTES:
                break
            # Of one message the scheduler takes the steps first.
            if isinstance(self._reports[0], pb.TaskStep) and put_out:
                break
            put_out = put_out or isinstance(self._reports[0], pb.TaskOutputChunk)
            taken.append(self._reports.popleft())
        return taken
