"""Requests that travel in one call."""

from __future__ import annotations

import asyncio

from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb

_MOST_TASKS = 1000
_MOST_BYTES = 4 << 20


class Batch:
    """A call in the making. A request is written where it will be sent from, and not copied there."""

    def __init__(self) -> None:
        self.message = pb.BatchCreateTasksRequest()
        self._futures: list[asyncio.Future[str]] = []
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether it takes no more requests, however small."""
        return len(self._futures) >= _MOST_TASKS

    def draft(self) -> pb.CreateTaskRequest:
        """An empty request at its end, to be written and then added or taken back."""
        return self.message.requests.add()

    def take_back(self) -> pb.CreateTaskRequest:
        """Takes the draft out."""
        return self.message.requests.pop()

    def takes(self, size: int) -> bool:
        """Whether a draft of so many bytes may stay; a first one may be of any size."""
        return not self._futures or self._bytes + size <= _MOST_BYTES

    def add(self, size: int) -> asyncio.Future[str]:
        """Counts the draft in; the future gives its answer."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        self._bytes += size
        return future

    def close(self) -> list[asyncio.Future[str]]:
        """Leaves out what was given up meanwhile; gives the futures of the rest, in the order of their requests."""
        given_up = [place for place, future in enumerate(self._futures) if future.done()]
        for place in reversed(given_up):
            del self.message.requests[place]
            del self._futures[place]
        return self._futures
