"""WorkerService: carries a worker's stream to its use case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from guildmesh.scheduler.v1 import worker_service_pb2 as pb
from guildmesh.scheduler.v1 import worker_service_pb2_grpc as pb_grpc

from services.common.context import current_call
from services.common.failpoints import fail_point, peer_socket
from services.scheduler.server.convert import work_responses, worker_message
from services.scheduler.usecases.work import Work, WorkStream

SERVICE = "guildmesh.scheduler.v1.WorkerService"


def add_worker_service(servicer: WorkerServicer, server: grpc.aio.Server) -> None:
    """Adds the service to a server, which sends its answers as they are."""
    work: grpc.RpcMethodHandler[pb.WorkRequest, bytes] = grpc.stream_stream_rpc_method_handler(
        servicer.Work, request_deserializer=pb.WorkRequest.FromString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Work": work}),))


class WorkerServicer(pb_grpc.WorkerServiceServicer):
    """Serves guildmesh.scheduler.v1.WorkerService."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def Work(self, request_iterator: AsyncIterator[pb.WorkRequest], context: Any) -> AsyncIterator[bytes]:  # type: ignore[override]
        """Reads and writes at once: what a worker tells shares commits while leases go out. Answers are serialized already."""
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
                for response in work_responses(message):
                    yield response
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
