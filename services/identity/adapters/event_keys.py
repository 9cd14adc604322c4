"""The keys of users, by the scheduler's EventKeyService."""

from __future__ import annotations

from datetime import UTC, datetime

import grpc
from guildmesh.scheduler.v1 import event_key_service_pb2 as pb
from guildmesh.scheduler.v1 import event_key_service_pb2_grpc as pb_grpc

from services.common.errors import DependencyUnavailable

_SECONDS = 5.0


class SchedulerEventKeys:
    """Implements the port EventKeys."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: pb_grpc.EventKeyServiceAsyncStub = pb_grpc.EventKeyServiceStub(channel)

    async def erase(self, tenant_id: str, username: str) -> datetime:
        """Has the keys of a user destroyed. Raises DependencyUnavailable."""
        request = pb.EraseUserKeysRequest(tenant_id=tenant_id, username=username)
        try:
            response = await self._stub.EraseUserKeys(request, timeout=_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise DependencyUnavailable("scheduler") from error
        return response.erase_time.ToDatetime(UTC)
