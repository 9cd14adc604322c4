"""What a worker has told and not yet heard to be durable: it is told again on the next stream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeAlias

from guildmesh.scheduler.v1 import worker_service_pb2 as pb

Key: TypeAlias = tuple[str, int, str]
"""task, attempt, step; an empty step for the end of the attempt."""
Report: TypeAlias = pb.TaskStep | pb.TaskCompletion | pb.TaskFailure


class Reports:
    """Reports in the order they were made, each until it is answered."""

    def __init__(self) -> None:
        self._open: dict[Key, tuple[Report, asyncio.Future[pb.TaskRefusal | None] | None]] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, report: Report) -> None:
        """Remembers a report until it is answered."""
        self._open[key_of(report)] = (report, None)
        self._empty.clear()

    def add_awaited(self, report: Report) -> asyncio.Future[pb.TaskRefusal | None]:
        """Remembers a report; the future gives its refusal, or None once it is durable."""
        future: asyncio.Future[pb.TaskRefusal | None] = asyncio.get_running_loop().create_future()
        self._open[key_of(report)] = (report, future)
        self._empty.clear()
        return future

    def answer(self, key: Key, refusal: pb.TaskRefusal | None) -> None:
        """Forgets a report; an answer for what is not open (a repeat of ours was answered twice) changes nothing."""
        found = self._open.pop(key, None)
        if found is None:
            return
        if found[1] is not None and not found[1].done():
            found[1].set_result(refusal)
        if not self._open:
            self._empty.set()

    def replace(self, report: Report) -> None:
        """Puts another report in the place of the one with the same key."""
        self._open[key_of(report)] = (report, self._open[key_of(report)][1])

    def all(self) -> list[Report]:
        """The open reports, oldest first."""
        return [report for report, _ in self._open.values()]

    async def answered(self) -> None:
        """Waits until none is open."""
        await self._empty.wait()


def key_of(report: Report) -> Key:
    """What a report is about."""
    return report.task_id, report.attempt, report.step_id if isinstance(report, pb.TaskStep) else ""


def put(request: pb.WorkRequest, reports: Iterable[Report]) -> None:
    """Puts reports into a message."""
    for report in reports:
        if isinstance(report, pb.TaskStep):
            request.steps.append(report)
        elif isinstance(report, pb.TaskCompletion):
            request.completions.append(report)
        else:
            request.failures.append(report)
