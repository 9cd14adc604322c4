"""The events of tasks as they happen; lost connections and restarts are borne."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import grpc
from guildmesh.events.v1 import task_event_pb2
from guildmesh.scheduler.v1 import scheduler_service_pb2 as pb
from guildmesh.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc

Metadata: TypeAlias = Sequence[tuple[str, str]]

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 3.0
_MOST_REMEMBERED = 50_000
# A scheduler that stops ends its streams as cancelled.
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_LAST = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class WatchedEvent:
    """An event of one of many tasks."""

    event: task_event_pb2.TaskEvent
    resume_token: str
    """goes on behind it, also in another process; good for a week."""


class _Patience:
    """How long to wait before another stream is opened, and when that is in vain."""

    def __init__(self, seconds: float) -> None:
        self._until = asyncio.get_running_loop().time() + seconds
        self._pause = _FIRST_PAUSE
        self._heard = False

    def heard(self) -> None:
        """The stream has told something: it is worth waiting for."""
        self._heard, self._pause = True, _FIRST_PAUSE

    async def bear(self, error: grpc.aio.AioRpcError, *, renewable: bool) -> None:
        """Waits after an error that may pass; raises any other."""
        # Of a token that has ended there may be a fresh one.
        renewed = renewable and self._heard and error.code() is grpc.StatusCode.UNAUTHENTICATED
        in_vain = not self._heard and asyncio.get_running_loop().time() > self._until
        if in_vain or not (renewed or _passes(error)):
            raise error
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


async def watch_task(
    channel: grpc.aio.Channel, metadata: Metadata | Callable[[], Metadata], task_id: str, after: int, timeout: float
) -> AsyncIterator[task_event_pb2.TaskEvent]:
    """For TaskClient.watch."""
    stub: pb_grpc.SchedulerServiceAsyncStub = pb_grpc.SchedulerServiceStub(channel)
    patience = _Patience(timeout)
    while True:
        request = pb.WatchTaskRequest(task_id=task_id, after_event_number=after)
        try:
            async for event in stub.WatchTask(request, metadata=_fresh(metadata)):
                patience.heard()
                after = event.number
                yield event
                if event.WhichOneof("change") in _LAST:
                    return
            return
        except grpc.aio.AioRpcError as error:
            await patience.bear(error, renewable=callable(metadata))


async def watch_tasks(
    channel: grpc.aio.Channel,
    metadata: Metadata | Callable[[], Metadata],
    wanted: str,
    resume_token: str,
    start_time: datetime | None,
    timeout: float,
) -> AsyncIterator[WatchedEvent]:
    """For TaskClient.watch_tasks."""
    stub: pb_grpc.SchedulerServiceAsyncStub = pb_grpc.SchedulerServiceStub(channel)
    patience = _Patience(timeout)
    numbers: OrderedDict[str, int] = OrderedDict()
    while True:
        request = pb.WatchTasksRequest(filter=wanted, resume_token=resume_token)
        if start_time is not None and not resume_token:
            request.start_time.FromDatetime(start_time)
        try:
            async for response in stub.WatchTasks(request, metadata=_fresh(metadata)):
                patience.heard()
                resume_token = response.resume_token
                if response.HasField("event") and not _is_repeat(numbers, response.event):
                    yield WatchedEvent(response.event, resume_token)
        except grpc.aio.AioRpcError as error:
            await patience.bear(error, renewable=callable(metadata))
        else:
            await asyncio.sleep(_FIRST_PAUSE)


def _passes(error: grpc.aio.AioRpcError) -> bool:
    """Whether another stream may do better. A proxy whose server dies in the middle of one can only reset it: INTERNAL."""
    return error.code() in _PASSING or (error.code() is grpc.StatusCode.INTERNAL and "RST_STREAM" in (error.details() or ""))


def _is_repeat(numbers: OrderedDict[str, int], event: task_event_pb2.TaskEvent) -> bool:
    """Whether an event was there before: after a fault some are published again."""
    if event.number <= numbers.get(event.task_id, 0):
        return True
    numbers[event.task_id] = event.number
    numbers.move_to_end(event.task_id)
    if len(numbers) > _MOST_REMEMBERED:
        numbers.popitem(last=False)
    return False


def _fresh(metadata: Metadata | Callable[[], Metadata]) -> tuple[tuple[str, str], ...]:
    return tuple(metadata() if callable(metadata) else metadata)
