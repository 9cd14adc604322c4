"""Conversations and memories of the memory service, for the current caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import grpc
from guildmesh.memory.v1 import memory_service_pb2 as pb
from guildmesh.memory.v1 import memory_service_pb2_grpc as pb_grpc

from services.agent.adapters.refusals import refusals
from services.agent.domain.errors import ConversationNotFound
from services.agent.domain.language_model import ChatMessage, Role
from services.agent.domain.work import Recollection
from services.common.errors import NotFound
from services.common.json_values import JsonObject
from services.common.structs import json_to_struct


class MemoryServiceConversations:
    """Implements Conversations."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._memory = pb_grpc.MemoryServiceStub(channel)

    async def history(self, conversation_id: str, limit: int) -> Sequence[ChatMessage]:
        """The newest messages, oldest first; what a tool said is left out."""
        try:
            with refusals("memory"):
                page = await self._memory.ListMessages(pb.ListMessagesRequest(conversation_id=conversation_id, page_size=limit))
        except NotFound as error:
            raise ConversationNotFound(conversation_id) from error
        return [
            ChatMessage(cast(Role, message.role), message.content)
            for message in reversed(page.messages)
            if message.role in ("user", "assistant")
        ]

    async def append(self, conversation_id: str | None, title: str, messages: Sequence[tuple[ChatMessage, JsonObject]]) -> str:
        """Adds messages in one call."""
        request = pb.AppendMessagesRequest(conversation_id=conversation_id or "-", title="" if conversation_id else title)
        for message, metadata in messages:
            request.messages.add(
                role=message.role, content=message.content, metadata=json_to_struct(metadata) if metadata else None
            )
        try:
            with refusals("memory"):
                answer = await self._memory.AppendMessages(request)
        except NotFound as error:
            raise ConversationNotFound(conversation_id or "") from error
        return answer.conversation_id


class MemoryServiceMemories:
    """Implements Memories."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._memory = pb_grpc.MemoryServiceStub(channel)

    async def remember(self, content: str, owner: str, metadata: JsonObject, request_id: str) -> str:
        """Keeps a text."""
        memory = pb.Memory(content=content, owner=owner, metadata=json_to_struct(metadata))
        with refusals("memory"):
            kept = await self._memory.CreateMemory(pb.CreateMemoryRequest(memory=memory, request_id=request_id))
        return kept.memory_id

    async def recall(self, query: str, owner: str, limit: int) -> Sequence[Recollection]:
        """Finds texts by meaning."""
        with refusals("memory"):
            found = await self._memory.SearchMemories(pb.SearchMemoriesRequest(query=query, owner=owner, limit=limit))
        return [Recollection(it.memory.memory_id, it.memory.content, it.score) for it in found.matches]
