"""DispatchService: carries the stream of another replica to the decisions of this one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from guildmesh.scheduler.v1 import dispatch_service_pb2 as pb
from guildmesh.scheduler.v1 import dispatch_service_pb2_grpc as pb_grpc

from services.common.failpoints import fail_point, peer_socket
from services.scheduler.domain.decision import Answer
from services.scheduler.server.dispatch_convert import message_of, response_of
from services.scheduler.usecases.decide_starts import DecideStarts, Peer

SERVICE = "guildmesh.scheduler.v1.DispatchService"


class DispatchServicer(pb_grpc.DispatchServiceServicer):
    """Serves guildmesh.scheduler.v1.DispatchService."""

    def __init__(self, decide: DecideStarts) -> None:
        self._decide = decide
        self._streams: set[asyncio.Queue[Answer | None]] = set()

    async def drain(self) -> None:
        """Ends all streams: the others follow whoever decides next."""
        for outgoing in self._streams:
            outgoing.put_nowait(None)

    async def Exchange(
        self, request_iterator: AsyncIterator[pb.ExchangeRequest], context: Any
    ) -> AsyncIterator[pb.ExchangeResponse]:
        """Reads and writes at once."""
        outgoing: asyncio.Queue[Answer | None] = asyncio.Queue()
        peer = Peer(outgoing.put_nowait, here=False)
        cut = peer_socket(context.peer())
        self._decide.join(peer)
        self._streams.add(outgoing)

        async def read() -> None:
            async for request in request_iterator:
                await fail_point("scheduler.exchange.before_take", cut)
                self._decide.take(peer, message_of(request))

        reading = asyncio.create_task(read())
        reading.add_done_callback(lambda _: outgoing.put_nowait(None))
        try:
            while (answer := await outgoing.get()) is not None:
                await fail_point("scheduler.exchange.before_send", cut)
                yield response_of(answer)
        finally:
            self._streams.discard(outgoing)
            self._decide.leave(peer)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
