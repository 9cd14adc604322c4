"""The stream to the replica that decides, when it is another process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import structlog
from guildmesh.scheduler.v1 import dispatch_service_pb2_grpc as pb_grpc

from services.common.grpcx.channel import secure_channel
from services.scheduler.domain.decision import Answer, Link, Message
from services.scheduler.server.dispatch_convert import answer_of, request_of

log = structlog.get_logger(__name__)


class DispatchLink:
    """One stream. What is told while a message is on its way goes out together with the next."""

    def __init__(
        self, address: str, tls_dir: Path, received: Callable[[Link, Answer], None], lost: Callable[[Link], None]
    ) -> None:
        """Opens the stream to `address`; `lost` is called once when it has ended and was not closed."""
        self._address = address
        self._tls_dir = tls_dir
        self._received = received
        self._lost = lost
        self._next = Message()
        self._something = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def tell(self, message: Message) -> None:
        """Tells it, as soon as what was told before has gone."""
        self._next.opened += message.opened
        self._next.closed += message.closed
        self._next.offers += message.offers
        self._next.waiting += message.waiting
        self._something.set()

    def close(self) -> None:
        """Ends it."""
        self._task.cancel()

    async def _run(self) -> None:
        try:
            async with secure_channel(self._address, "scheduler", self._tls_dir) as channel:
                call: Any = pb_grpc.DispatchServiceStub(channel).Exchange()
                writing = asyncio.create_task(self._write(call))
                try:
                    async for response in call:
                        self._received(self, answer_of(response))
                finally:
                    writing.cancel()
                    await asyncio.gather(writing, return_exceptions=True)
        except grpc.aio.AioRpcError as error:
            log.info("dispatch_link_lost", address=self._address, error=error.details())
        except Exception:
            log.exception("dispatch_link_lost", address=self._address)
        self._lost(self)

    async def _write(self, call: Any) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self._something.wait()
                self._something.clear()
                message, self._next = self._next, Message()
                await call.write(request_of(message))
