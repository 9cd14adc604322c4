"""MemoryService on the wire."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.empty_pb2 import Empty
from guildmesh.memory.v1 import memory_service_pb2 as pb
from guildmesh.memory.v1 import memory_service_pb2_grpc as pb_grpc

from services.common.context import current_call
from services.memory.server.convert import (
    conversation_to_proto,
    match_to_proto,
    memory_to_proto,
    message_to_proto,
    new_memory_from_proto,
    new_messages_from_proto,
)
from services.memory.usecases.append_messages import AppendMessages
from services.memory.usecases.create_conversation import CreateConversation
from services.memory.usecases.create_memory import CreateMemory
from services.memory.usecases.delete_memory import DeleteMemory
from services.memory.usecases.get_conversation import GetConversation
from services.memory.usecases.get_memory import GetMemory
from services.memory.usecases.list_conversations import ListConversations
from services.memory.usecases.list_memories import ListMemories
from services.memory.usecases.list_messages import ListMessages
from services.memory.usecases.search_memories import SearchMemories


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the servicer calls."""

    create_conversation: CreateConversation
    get_conversation: GetConversation
    list_conversations: ListConversations
    append_messages: AppendMessages
    list_messages: ListMessages
    create_memory: CreateMemory
    get_memory: GetMemory
    list_memories: ListMemories
    delete_memory: DeleteMemory
    search_memories: SearchMemories


class MemoryServicer(pb_grpc.MemoryServiceServicer):
    """Turns messages into calls of use cases and back; the contract documents each method."""

    def __init__(self, use_cases: UseCases) -> None:
        self._use_cases = use_cases

    async def CreateConversation(self, request: pb.CreateConversationRequest, context: object) -> pb.Conversation:
        """See the contract."""
        conversation = await self._use_cases.create_conversation(current_call().principal, request.conversation.title)
        return conversation_to_proto(conversation)

    async def GetConversation(self, request: pb.GetConversationRequest, context: object) -> pb.Conversation:
        """See the contract."""
        conversation = await self._use_cases.get_conversation(current_call().principal, request.conversation_id)
        return conversation_to_proto(conversation)

    async def ListConversations(self, request: pb.ListConversationsRequest, context: object) -> pb.ListConversationsResponse:
        """See the contract."""
        conversations, token = await self._use_cases.list_conversations(
            current_call().principal, request.page_size, request.page_token
        )
        return pb.ListConversationsResponse(conversations=map(conversation_to_proto, conversations), next_page_token=token)

    async def AppendMessages(self, request: pb.AppendMessagesRequest, context: object) -> pb.AppendMessagesResponse:
        """See the contract."""
        conversation_id, messages = await self._use_cases.append_messages(
            current_call().principal, request.conversation_id, request.title, new_messages_from_proto(request)
        )
        return pb.AppendMessagesResponse(conversation_id=conversation_id, messages=map(message_to_proto, messages))

    async def ListMessages(self, request: pb.ListMessagesRequest, context: object) -> pb.ListMessagesResponse:
        """See the contract."""
        messages, token = await self._use_cases.list_messages(
            current_call().principal, request.conversation_id, request.page_size, request.page_token
        )
        return pb.ListMessagesResponse(messages=map(message_to_proto, messages), next_page_token=token)

    async def CreateMemory(self, request: pb.CreateMemoryRequest, context: object) -> pb.Memory:
        """See the contract."""
        memory = await self._use_cases.create_memory(current_call().principal, new_memory_from_proto(request))
        return memory_to_proto(memory)

    async def GetMemory(self, request: pb.GetMemoryRequest, context: object) -> pb.Memory:
        """See the contract."""
        return memory_to_proto(await self._use_cases.get_memory(current_call().principal, request.memory_id))

    async def ListMemories(self, request: pb.ListMemoriesRequest, context: object) -> pb.ListMemoriesResponse:
        """See the contract."""
        memories, token = await self._use_cases.list_memories(
            current_call().principal, request.owner, request.page_size, request.page_token
        )
        return pb.ListMemoriesResponse(memories=map(memory_to_proto, memories), next_page_token=token)

    async def DeleteMemory(self, request: pb.DeleteMemoryRequest, context: object) -> Empty:
        """See the contract."""
        await self._use_cases.delete_memory(current_call().principal, request.memory_id)
        return Empty()

    async def SearchMemories(self, request: pb.SearchMemoriesRequest, context: object) -> pb.SearchMemoriesResponse:
        """See the contract."""
        matches = await self._use_cases.search_memories(current_call().principal, request.query, request.owner, request.limit)
        return pb.SearchMemoriesResponse(matches=map(match_to_proto, matches))
