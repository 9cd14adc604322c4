"""WorkerService: carries a worker's stream to its use case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from guildmesh.scheduler.v1 import worker_service_pb2 as pb
from guildmesh.scheduler.v1 import worker_service_pb2_grpc as pb_grpc

from services.common.context import current_call
from services.common.failpoints import fail_point, peer_socket
from services.scheduler.server.convert import work_response, worker_message
from services.scheduler.usecases.work import Work, WorkStream


class WorkerServicer(pb_grpc.WorkerServiceServicer):
    """Serves guildmesh.scheduler.v1.WorkerService."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def Work(self, request_iterator: AsyncIterator[pb.WorkRequest], context: Any) -> AsyncIterator[pb.WorkResponse]:
        """Reads and writes at once: what a worker tells shares commits while leases go out."""
        call = current_call()
        stream = self._work.open(call.principal.tenant_id, call.peer, call.token_ends)
        cut = peer_socket(context.peer())
        reading = asyncio.create_task(_read(request_iterator, stream, cut))
        try:
            async for message in stream.messages():
                leases, acks = bool(message.leases), bool(message.acks)
                if leases:
                    await fail_point("scheduler.stream.before_leases", cut)
                if acks:
                    await fail_point("scheduler.stream.before_acks", cut)
                yield work_response(message)
                if leases:
                    await fail_point("scheduler.stream.after_leases", cut)
                if acks:
                    await fail_point("scheduler.stream.after_acks", cut)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            stream.close()


async def _read(requests: AsyncIterator[pb.WorkRequest], stream: WorkStream, cut: Callable[[], object]) -> None:
    try:
        async for request in requests:
            await fail_point("scheduler.stream.before_handle", cut)
            await stream.handle(worker_message(request))
            await fail_point("scheduler.stream.after_handle", cut)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        stream.fail(error)
    else:
        stream.finish()
