"""One Work stream: what is told on it and what is heard."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from guildmesh.scheduler.v1 import worker_service_pb2 as pb

from guildmesh_client.worker.reports import Report, put

# A message of the scheduler's server may have 16 MiB.
_MOST_BYTES = 4 << 20
_MOST_REPORTS = 500


class Stream:
    """Gathers what there is to tell while the message before is on its way."""

    def __init__(self, hello: pb.WorkerHello) -> None:
        self.outstanding = 0
        """credits given on this stream and not yet spent."""
        self.draining = False
        """whether the scheduler asked for another stream."""
        self.welcomed = asyncio.Event()
        self.renewal = asyncio.Event()
        """set when the scheduler asks for another stream with a fresh token."""
        self._hello: pb.WorkerHello | None = hello
        self._credits = 0
        self._heartbeats: list[pb.TaskHeartbeat] = []
        self._sent: dict[tuple[str, int], deque[float]] = {}
        self._reports: deque[Report] = deque()
        self._drain = False
        self._ended = False
        self._told = asyncio.Event()
        self._told.set()

    def give_credits(self, number: int) -> None:
        """Lets the scheduler lease that many more tasks."""
        self.outstanding += number
        self._credits += number
        self._told.set()

    def beat(self, heartbeats: Sequence[pb.TaskHeartbeat]) -> None:
        """Sends heartbeats with the next message."""
        self._heartbeats += heartbeats
        self._told.set()

    def report(self, reports: Sequence[Report]) -> None:
        """Sends reports, in order."""
        self._reports += reports
        self._told.set()

    def drain(self) -> None:
        """Says that no more tasks are wanted."""
        self._drain = True
        self._told.set()

    def end(self) -> None:
        """Says that nothing more will be told, after what waits has been."""
        self._ended = True
        self._told.set()

    def renewed(self, task_id: str, attempt: int) -> float | None:
        """When the heartbeat was sent that a renewal answers: heartbeats are answered in their order."""
        sent = self._sent.get((task_id, attempt))
        return sent.popleft() if sent else None

    def forget(self, task_id: str, attempt: int) -> None:
        """Forgets the heartbeats of an attempt that is over."""
        self._sent.pop((task_id, attempt), None)

    async def requests(self) -> AsyncIterator[pb.WorkRequest]:
        """The messages for the scheduler."""
        while True:
            await self._told.wait()
            self._told.clear()
            while self._waiting():
                yield self._next()
            if self._ended:
                return

    def _waiting(self) -> bool:
        return bool(self._hello or self._credits or self._heartbeats or self._reports or self._drain)

    def _next(self) -> pb.WorkRequest:
        request = pb.WorkRequest(hello=self._hello, credits=min(self._credits, 10_000), drain=self._drain)
        self._hello = None
        self._credits -= request.credits
        self._drain = False
        now = asyncio.get_running_loop().time()
        for beat in self._heartbeats:
            self._sent.setdefault((beat.task_id, beat.attempt), deque()).append(now)
        request.heartbeats.extend(self._heartbeats)
        self._heartbeats.clear()
        put(request, self._take_reports())
        return request

    def _take_reports(self) -> list[Report]:
        taken: list[Any] = []
        size = 0
        while self._reports and len(taken) < _MOST_REPORTS:
            size += self._reports[0].ByteSize()
            if taken and size > _MOST_BYTES:
                break
            taken.append(self._reports.popleft())
        return taken
