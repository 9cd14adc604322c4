"""The channels that a worker uses: one that it is given, or its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import grpc

OpenChannel: TypeAlias = Callable[[], AbstractAsyncContextManager[grpc.aio.Channel]]

_OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    # A connection whose other end is gone without a word is noticed within a lease, also by a worker with nothing to tell.
    # Servers count pings that come more often than every 5 s as an attack.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name, how long one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Another channel is another connection: the one before may be what is broken.
    ("grpc.use_local_subchannel_pool", 1),
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


class Connection:
    """A channel for as long as anyone needs it."""

    def __init__(self, open_channel: OpenChannel) -> None:
        self._context = open_channel()
        self._channel: grpc.aio.Channel | None = None
        self._users = 0

    @property
    def channel(self) -> grpc.aio.Channel:
        """The open channel."""
        assert self._channel is not None, "not open"
        return self._channel

    async def open(self) -> Connection:
        """Opens it, and holds it."""
        self._channel = await self._context.__aenter__()
        self.hold()
        return self

    def hold(self) -> None:
        """Says that one more needs it."""
        self._users += 1

    async def release(self) -> None:
        """Says that one needs it no longer; the last closes it."""
        self._users -= 1
        if not self._users:
            await self._context.__aexit__(None, None, None)
