"""What a worker has told and not yet heard to be durable: it is told again on the next stream."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from typing import TypeAlias

from guildmesh.scheduler.v1 import worker_service_pb2 as pb

Key: TypeAlias = tuple[str, int, str | int]
"""task, attempt, step; an empty step for the end of the attempt; a number for a chunk of output."""
Report: TypeAlias = pb.TaskStep | pb.TaskOutputChunk | pb.TaskCompletion | pb.TaskFailure | pb.TaskWait


class Reports:
    """Reports in the order they were made, each until it is answered."""

    def __init__(self) -> None:
        self._open: dict[Key, Report] = {}
        self._awaited: dict[Key, asyncio.Future[pb.TaskRefusal | None]] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, report: Report, key: Key | None = None) -> None:
        """Remembers a report until it is answered; its key need not be read from it by who knows it."""
        self._open[key or key_of(report)] = report
        self._empty.clear()

    def add_awaited(self, report: Report) -> asyncio.Future[pb.TaskRefusal | None]:
        """Remembers a report; the future gives its refusal, or None once it is durable."""
        future: asyncio.Future[pb.TaskRefusal | None] = asyncio.get_running_loop().create_future()
        key = key_of(report)
        self._awaited[key] = future
        self.add(report, key)
        return future

    def answer(self, key: Key, refusal: pb.TaskRefusal | None) -> None:
        """Forgets a report; an answer for what is not open (a repeat of ours was answered twice) changes nothing."""
        if self._open.pop(key, None) is None:
            return
        if self._awaited and (future := self._awaited.pop(key, None)) is not None and not future.done():
            future.set_result(refusal)
        if not self._open:
            self._empty.set()

    def replace(self, report: Report) -> None:
        """Puts another report in the place of the one with the same key."""
        self._open[key_of(report)] = report

    def get(self, key: Key) -> Report | None:
        """The open report of a key, or None."""
        return self._open.get(key)

    def all(self) -> list[Report]:
        """The open reports, oldest first."""
        return list(self._open.values())

    def first(self) -> list[Report]:
        """The oldest open report, or none."""
        return list(itertools.islice(self._open.values(), 1))

    async def answered(self) -> None:
        """Waits until none is open."""
        await self._empty.wait()


def key_of(report: Report) -> Key:
    """What a report is about."""
    if isinstance(report, pb.TaskOutputChunk):
        return report.task_id, report.attempt, report.sequence
    return report.task_id, report.attempt, report.step_id if isinstance(report, pb.TaskStep) else ""


def put(request: pb.WorkRequest, reports: Iterable[Report]) -> None:
    """Puts reports into a message."""
    # Nearly all are completions.
    for report in reports:
        if isinstance(report, pb.TaskCompletion):
            request.completions.append(report)
        elif isinstance(report, pb.TaskStep):
            request.steps.append(report)
        elif isinstance(report, pb.TaskOutputChunk):
            request.outputs.append(report)
        elif isinstance(report, pb.TaskWait):
            request.waits.append(report)
        else:
            request.failures.append(report)
