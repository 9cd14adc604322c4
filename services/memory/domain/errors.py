"""Errors of memory, each with its reason in guildmesh/memory/v1/error_reason.proto."""

from __future__ import annotations

from services.common.errors import AlreadyExists, NotFound

DOMAIN = "memory.guildmesh.dev"


class ConversationNotFound(NotFound):
    """The caller has no such conversation."""

    reason = "CONVERSATION_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"No conversation {conversation_id!r}; list yours with GET /v1/conversations.", conversation_id=conversation_id
        )


class MemoryNotFound(NotFound):
    """The caller's tenant has no such memory."""

    reason = "MEMORY_NOT_FOUND"
    domain = DOMAIN

    def __init__(self, memory_id: str) -> None:
        super().__init__(f"No memory {memory_id!r}; list yours with GET /v1/memories.", memory_id=memory_id)


class RequestIdReused(AlreadyExists):
    """The request id came before with another memory."""

    reason = "REQUEST_ID_REUSED"
    domain = DOMAIN

    def __init__(self, request_id: str) -> None:
        super().__init__("The request_id was used for another memory; choose a new one.", request_id=request_id)
