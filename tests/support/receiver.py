"""A receiver of webhooks: a real HTTP server on loopback that keeps what it is sent and answers as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Answer = tuple[int, Mapping[str, str], bytes]
OK: Answer = (200, {}, b"")


@dataclass(frozen=True, slots=True)
class Request:
    """One POST."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        return self.headers["idempotency-key"]

    @property
    def task_id(self) -> str:
        return self.id.rpartition("/")[0]

    @property
    def number(self) -> int:
        return int(self.id.rpartition("/")[2])


@dataclass
class Receiver:
    """Answers each request by `answer`, OK unless a test says otherwise."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    taken: list[Request] = field(default_factory=list)
    """those that were answered 2xx."""
    ids: set[str] = field(default_factory=set)
    """of those."""
    answer: Callable[[Request], Awaitable[Answer] | Answer] = lambda request: OK
    host: str = "127.0.0.1"
    tls: ssl.SSLContext | None = None
    connections: int = 0
    """that were made."""
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/hook"

    def numbers(self) -> dict[str, list[int]]:
        """The numbers of each task's events in the order in which they came first; a receiver drops repeats by their ids."""
        found: dict[str, dict[int, None]] = {}
        for request in self.taken:
            found.setdefault(request.task_id, {})[request.number] = None
        return {task_id: list(numbers) for task_id, numbers in found.items()}

    async def until(self, done: Callable[[], object], seconds: float = 30) -> None:
        """Waits until something holds; it is asked after each request."""
        async with asyncio.timeout(seconds):
            while not done():
                self._came.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await self._came.wait()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, self.host, self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As if it were killed: connections are cut."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        try:
            while True:
                request = await _read(reader)
                self.requests.append(request)
                answer = self.answer(request)
                status, headers, body = await answer if isinstance(answer, Awaitable) else answer
                if 200 <= status < 300:
                    self.taken.append(request)
                    self.ids.add(request.id)
                self._came.set()
                lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
                writer.write(("\r\n".join([*lines, f"content-length: {len(body)}"]) + "\r\n\r\n").encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    method, path, _ = head[0].split(" ")
    assert method == "POST"
    return Request(path, headers, await reader.readexactly(int(headers["content-length"])))


@asynccontextmanager
async def receiving(**fields: Any) -> AsyncIterator[Receiver]:
    """A receiver that runs."""
    receiver = Receiver(**fields)
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()
