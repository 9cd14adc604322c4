"""Calls about payloads: made again while that may help, and else, in a run, a failure of the attempt that says why."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from guildmesh_client.refusals import reason_in, status_of
from guildmesh_client.worker.errors import TaskFailed

T = TypeVar("T")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 3.0
# The scheduler or its object store is away, or between two of our streams.
_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNKNOWN,
}
TROUBLES = (grpc.aio.AioRpcError, ConnectionError)
"""what a call that failed raises."""


async def persistently(call: Callable[[], Awaitable[T]], seconds: float) -> T:
    """What a call gives; one that fails for a reason that may pass is made again for `seconds`, then its error is raised."""
    loop = asyncio.get_running_loop()
    until = float("inf")
    pause = _FIRST_PAUSE
    while True:
        try:
            return await call()
        except TROUBLES as error:
            if isinstance(error, grpc.aio.AioRpcError) and error.code() not in _PASSING:
                raise
            now = loop.time()
            until = min(until, now + seconds)
            if now + pause > until:
                raise
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries, keeps no secret
        pause = min(2 * pause, _LONGEST_PAUSE)


def not_read(what: str, error: Exception) -> TaskFailed:
    """The failure of an attempt whose input is a payload that cannot be had; another attempt may have it unless it is gone."""
    gone = isinstance(error, ValueError) or (
        isinstance(error, grpc.aio.AioRpcError) and error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED)
    )
    return TaskFailed("INPUT_NOT_READ", f"{what} is a payload that cannot be read: {_told(error)}", retryable=not gone)


def not_stored(error: Exception) -> TaskFailed:
    """The failure of an attempt whose result is too large for a message, and was not taken as a payload."""
    if isinstance(error, grpc.aio.AioRpcError) and reason_in(status_of(error)) == "PAYLOAD_TOO_LARGE":
        return TaskFailed("RESULT_TOO_LARGE", f"The result is too large to be kept: {error.details()}")
    return TaskFailed("RESULT_NOT_STORED", f"The result could not be stored as a payload: {_told(error)}", retryable=True)


def _told(error: Exception) -> str:
    if not isinstance(error, grpc.aio.AioRpcError):
        return str(error)
    return f"{reason_in(status_of(error)) or error.code().name}: {error.details()}"
