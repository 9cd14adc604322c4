"""An operator beside the load of a client: pauses a queue and lets it go on, and replays what failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from guildmesh.scheduler.v1 import dead_letter_service_pb2 as letters_pb
from guildmesh.scheduler.v1 import dead_letter_service_pb2_grpc as letters_grpc
from guildmesh.scheduler.v1 import queue_pb2
from guildmesh.scheduler.v1 import queue_service_pb2 as queues_pb
from guildmesh.scheduler.v1 import queue_service_pb2_grpc as queues_grpc

from services.common.context import Principal
from tests.faults.client import Client
from tests.faults.history import INFO, OK
from tests.support.service import metadata

_PAUSED, _ON = (0.1, 0.4), (0.2, 0.8)
"""seconds that a pause, and what is between two, takes: the least and the most."""
_REPLAYED = 10


class Operator:
    """Asks again until it is answered, as the client does, and in the client's history."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._queues: Any = queues_grpc.QueueServiceStub(client.channel)
        self._letters: Any = letters_grpc.DeadLetterServiceStub(client.channel)
        self._metadata = metadata(Principal("operator", client.tenant, frozenset({"admin", "operator"})))

    async def make(self, queue: str) -> None:
        """Makes a queue of the client's tenant, without limits."""
        request = queues_pb.CreateQueueRequest(queue=queue_pb2.Queue(queue=queue))
        while True:
            try:
                await self._call(self._queues.CreateQueue, request)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                    return
                if not self._client.unknown(error):
                    raise
                await asyncio.sleep(0.1)
            else:
                return

    async def pause(self, queue: str) -> None:
        """Pauses a queue of all tenants; returns when that is answered."""
        request = queues_pb.PauseQueueRequest(queue=queue, shared=True)
        await self._until_answered("pause", lambda: self._call(self._queues.PauseQueue, request), queue=queue)

    async def resume(self, queue: str) -> None:
        """Lets it go on."""
        request = queues_pb.ResumeQueueRequest(queue=queue, shared=True)
        await self._until_answered("resume", lambda: self._call(self._queues.ResumeQueue, request), queue=queue)

    @asynccontextmanager
    async def halting(self, queue: str) -> AsyncIterator[None]:
        """Pauses a queue now and then meanwhile; it goes on in the end."""
        chance = self._client.random

        async def halt() -> None:
            while True:
                await asyncio.sleep(chance.uniform(*_ON))
                await self.pause(queue)
                await asyncio.sleep(chance.uniform(*_PAUSED))
                await self.resume(queue)

        halting = asyncio.create_task(halt())
        try:
            yield
        finally:
            halting.cancel()
            await asyncio.gather(halting, return_exceptions=True)
            await self.resume(queue)

    async def replay_failed(self, queue: str) -> None:
        """Replays some failed tasks of a queue, each of which two ask for at once."""
        wanted = letters_pb.ListDeadLettersRequest(queue=queue, filter="replayed = false", page_size=_REPLAYED)
        try:
            found = await self._call(self._letters.ListDeadLetters, wanted)
        except grpc.aio.AioRpcError as error:
            self._client.unknown(error)
            return
        await asyncio.gather(*(self.replay(letter.task_id) for letter in found.dead_letters for _ in range(2)))

    async def replay(self, task_id: str) -> None:
        """Replays a failed task; returns when that is answered."""
        request = letters_pb.ReplayTaskRequest(task_id=task_id)
        await self._until_answered("replay", lambda: self._call(self._letters.ReplayTask, request), task_id=task_id)

    def _call(self, method: Any, request: Any) -> Awaitable[Any]:
        answer: Awaitable[Any] = method(request, metadata=self._metadata, timeout=self._client.call_seconds)
        return answer

    async def _until_answered(self, what: str, call: Callable[[], Awaitable[Any]], **asked: str) -> None:
        recorder = self._client.recorder
        while True:
            number = recorder.invoke(what, tenant=self._client.tenant, **asked)
            try:
                answer = await call()
            except grpc.aio.AioRpcError as error:
                recorder.outcome(number, INFO, code=error.code().name)
                if not self._client.unknown(error):
                    self._client.surprised(f"{what} of {asked} was refused: {error.details()}")
                    return
                await asyncio.sleep(0.1)
            else:
                recorder.outcome(number, OK, **({"task_id": answer.task_id} if what == "replay" else {}))
                return
