"""EventKeyService: each method converts, calls its use case, converts back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import Any

from guildmesh.scheduler.v1 import event_key_service_pb2 as pb
from guildmesh.scheduler.v1 import event_key_service_pb2_grpc as pb_grpc

from services.common.context import current_call
from services.scheduler.usecases.erase_user_keys import EraseUserKeys
from services.scheduler.usecases.get_event_key import GetEventKey


@dataclass(frozen=True, slots=True)
class EventKeyUseCases:
    """What the servicer calls."""

    get_event_key: GetEventKey
    erase_user_keys: EraseUserKeys


class EventKeyServicer(pb_grpc.EventKeyServiceServicer):
    """Serves guildmesh.scheduler.v1.EventKeyService."""

    def __init__(self, use_cases: EventKeyUseCases) -> None:
        self._use_cases = use_cases

    async def GetEventKey(self, request: pb.GetEventKeyRequest, context: Any) -> pb.EventKey:
        """Gives a key."""
        caller = current_call().principal
        key = await self._use_cases.get_event_key.execute(caller.tenant_id, caller.subject, caller.roles, request.key_id.lower())
        message = pb.EventKey(key_id=key.key_id, username=key.username, key=key.key)
        message.create_time.FromDatetime(key.create_time.astimezone(UTC))
        return message

    async def EraseUserKeys(self, request: pb.EraseUserKeysRequest, context: Any) -> pb.EraseUserKeysResponse:
        """Destroys the keys of a user."""
        response = pb.EraseUserKeysResponse()
        erased = await self._use_cases.erase_user_keys.execute(request.tenant_id, request.username)
        response.erase_time.FromDatetime(erased.astimezone(UTC))
        return response
