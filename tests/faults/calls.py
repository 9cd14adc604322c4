"""Calls that are repeated until they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

UNKNOWN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNKNOWN,
}
"""after these a caller does not know what happened, and asks again."""


async def until_answered(call: Callable[[], Awaitable[Any]], done: grpc.StatusCode | None = None) -> Any:
    """The answer of a call that is repeated until there is one; a repeat may be told that it was `done` before."""
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() is done:
                return None
            if error.code() not in UNKNOWN:
                raise
            await asyncio.sleep(0.1)
