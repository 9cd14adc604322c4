"""The channel that a worker uses: one that it is given, or one of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import grpc

OpenChannel: TypeAlias = Callable[[], AbstractAsyncContextManager[grpc.aio.Channel]]

_OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


def opener(target: str, channel: grpc.aio.Channel | None, credentials: grpc.ChannelCredentials | None) -> OpenChannel:
    """Gives what opens the channel to use; a given channel stays its owner's to close."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[grpc.aio.Channel]:
        if channel is not None:
            yield channel
        elif credentials is not None:
            async with grpc.aio.secure_channel(target, credentials, options=_OPTIONS) as own:
                yield own
        else:
            async with grpc.aio.insecure_channel(target, options=_OPTIONS) as own:
                yield own

    return opened
