"""A TCP proxy in front of servers of this machine, as a load balancer that knows nothing of what it carries."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager


class TcpProxy:
    """A proxy that runs."""

    def __init__(self, port: int, ends: set[asyncio.StreamWriter]) -> None:
        self.port = port
        self._ends = ends

    def cut(self) -> int:
        """Breaks every connection, as a cable that is pulled and put back; gives how many there were."""
        for end in self._ends:
            end.transport.abort()
        return len(self._ends) // 2


@asynccontextmanager
async def tcp_proxy(ports: Sequence[int], *, delay: float = 0.0) -> AsyncIterator[int]:
    """Gives a port whose connections go to `ports` in turn, all after them to the last one, each after `delay` seconds."""
    async with open_tcp_proxy(ports, delay=delay) as proxy:
        yield proxy.port


@asynccontextmanager
async def open_tcp_proxy(ports: Sequence[int], *, delay: float = 0.0) -> AsyncIterator[TcpProxy]:
    """The same, and what can cut it."""
    turns = itertools.chain(ports, itertools.repeat(ports[-1]))
    ends: set[asyncio.StreamWriter] = set()

    async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = next(turns)
        await asyncio.sleep(delay)
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        both = {writer, to_server}
        ends.update(both)
        try:
            await asyncio.gather(forward(reader, to_server), forward(from_server, writer))
        finally:
            ends.difference_update(both)

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        try:
            yield TcpProxy(server.sockets[0].getsockname()[1], ends)
        finally:
            for end in ends:
                end.close()
