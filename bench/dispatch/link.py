"""How replicas speak with an owner: one stream of gRPC each, messages both ways; without gRPC within a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc
import grpc.aio

from bench.dispatch.statements import Lease

_SERVICE, _METHOD = "bench.Dispatch", "Exchange"


@dataclass(slots=True)
class Message:
    """What either side tells: a replica its demand and what ended, an owner what may start or has started."""

    want: int = 0
    """more slots than before; when less than 0, so many are asked back. From an owner: so many are given back."""
    started: bool = False
    """what was granted has been dealt with, so that more may come."""
    done: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """granted tasks that did not wait any more."""
    grants: list[tuple[str, int]] = field(default_factory=list)
    """tasks with their scopes."""
    epochs: dict[int, int] = field(default_factory=dict)
    leases: list[Lease] = field(default_factory=list)

    def encode(self) -> bytes:
        """The bytes on the wire: a line of JSON, then the payloads."""
        leases = [(each.task_id, each.attempt, each.queue, each.tenant, each.seconds, len(each.spec)) for each in self.leases]
        told = (self.want, self.started, self.done, self.missing, self.grants, list(self.epochs.items()), leases)
        return b"".join((json.dumps(told).encode(), b"\n", *(lease.spec for lease in self.leases)))

    @classmethod
    def decode(cls, data: bytes) -> Message:
        """What the bytes say."""
        line, _, payloads = data.partition(b"\n")
        want, started, done, missing, grants, epochs, told = json.loads(line)
        place, leases = 0, []
        for task_id, attempt, queue, tenant, seconds, size in told:
            leases.append(Lease(task_id, attempt, queue, tenant, seconds, payloads[place : place + size]))
            place += size
        return cls(want, started, done, missing, grants, dict(epochs), leases)


@dataclass(eq=False, slots=True)
class Peer:
    """A replica as its owner sees it."""

    send: Callable[[Message], None]
    want: int = 0
    busy_until: float = 0.0
    """until when it is expected to start what it was granted; 0 when it has."""


async def serve(joined: Callable[[Peer], Callable[[Message], None]], left: Callable[[Peer], None]) -> tuple[grpc.aio.Server, str]:
    """A server for the other replicas; `joined` gives what takes a peer's messages."""

    async def exchange(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        outgoing: asyncio.Queue[Message] = asyncio.Queue()
        peer = Peer(outgoing.put_nowait)
        take = joined(peer)

        async def read() -> None:
            async for data in requests:
                take(Message.decode(data))

        reading = asyncio.create_task(read())
        try:
            while True:
                yield (await outgoing.get()).encode()
        finally:
            reading.cancel()
            left(peer)

    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(exchange)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


class Link:
    """An owner as a replica sees it. What is told while a message is on its way goes out together with the next."""

    def __init__(self, address: str, received: Callable[[Link, Message], None], lost: Callable[[Link], None]) -> None:
        self.address = address
        self.outstanding = 0
        """slots that the owner may still fill."""
        self.quiet = True
        """whether nothing came since somebody looked."""
        self._received = received
        self._lost = lost
        self._next = Message()
        self._something = asyncio.Event()
        self._local: Callable[[Message], None] | None = None
        self._task: asyncio.Task[None] | None = None

    def connect(self, join: Callable[[Peer], Callable[[Message], None]] | None) -> None:
        """Opens the stream, or takes the short way by `join` when the owner is this process."""
        if join is not None:
            self._local = join(Peer(self.receive))
        else:
            self._task = asyncio.create_task(self._run())

    def receive(self, message: Message) -> None:
        """Takes a message of the owner."""
        self.quiet = False
        self._received(self, message)

    def tell(self, *, want: int = 0, done: str = "", started: bool = False, missing: tuple[str, ...] = ()) -> None:
        """Tells the owner, as soon as what was told before has gone."""
        self._next.want += want
        if want > 0:
            self.outstanding += want
        if done:
            self._next.done.append(done)
        self._next.missing += missing
        self._next.started = self._next.started or started
        if self._local is not None and not self._something.is_set():
            asyncio.get_running_loop().call_soon(self._flush)
        self._something.set()

    def close(self) -> None:
        """Ends the stream."""
        if self._task is not None:
            self._task.cancel()

    def _flush(self) -> None:
        self._something.clear()
        message, self._next = self._next, Message()
        assert self._local is not None
        self._local(message)

    async def _run(self) -> None:
        async with grpc.aio.insecure_channel(self.address) as channel:
            call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(f"/{_SERVICE}/{_METHOD}")()
            writing = asyncio.create_task(self._write(call))
            try:
                async for data in call:
                    self.receive(Message.decode(data))
            except grpc.aio.AioRpcError:
                pass
            finally:
                writing.cancel()
            self._lost(self)

    async def _write(self, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self._something.wait()
                self._something.clear()
                message, self._next = self._next, Message()
                await call.write(message.encode())
