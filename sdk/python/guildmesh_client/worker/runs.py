"""What runs on this worker, and the newest attempt of each task."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from guildmesh.scheduler.v1 import worker_service_pb2 as pb

from guildmesh_client.worker.run import Run


class Runs:
    """All runs that are not over. Of a task several attempts may be among them, all but the newest of which are being stopped."""

    def __init__(self) -> None:
        """None yet."""
        self._all: set[Run] = set()
        self._newest: dict[str, Run] = {}
        self._none = asyncio.Event()
        self._none.set()

    def __len__(self) -> int:
        """How many run now."""
        return len(self._all)

    def __iter__(self) -> Iterator[Run]:
        """Those that run now, also while some end."""
        return iter(list(self._all))

    def of(self, task_id: str, attempt: int) -> Run | None:
        """The run of an attempt; None for an older one, too, which has been stopped for the newest."""
        run = self._newest.get(task_id)
        return run if run is not None and run.task.attempt == attempt else None

    def add(self, run: Run) -> None:
        """A run begins; that of an older attempt is stopped, since only one is valid."""
        task_id = run.task.task_id
        if (other := self._newest.get(task_id)) is not None:
            other.stop("STALE_ATTEMPT")
        self._newest[task_id] = run
        self._all.add(run)
        self._none.clear()

    def remove(self, run: Run) -> bool:
        """A run is over; False when that was said before."""
        if run not in self._all:
            return False
        self._all.remove(run)
        if self._newest.get(run.task.task_id) is run:
            del self._newest[run.task.task_id]
        if not self._all:
            self._none.set()
        return True

    def heartbeats(self, *, again: bool = False) -> list[pb.TaskHeartbeat]:
        """Of all that keep their leases; see Run.heartbeat."""
        return [run.heartbeat(again=again) for run in self._all if run.keeps_its_lease]

    def urgent_heartbeats(self, now: float) -> list[pb.TaskHeartbeat]:
        """Of those that should be heard of before it is time for all."""
        return [run.heartbeat() for run in self._all if run.keeps_its_lease and run.has_urgent_news(now)]

    async def until_none(self) -> None:
        """Waits until nothing runs."""
        await self._none.wait()

    async def stop(self, reason: str) -> None:
        """Stops all, and waits until they are over."""
        runs = list(self._all)
        for run in runs:
            run.stop(reason)
        await asyncio.gather(*(run.running for run in runs), return_exceptions=True)
