"""Where the parts of memory are chosen and put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from guildmesh.memory.v1.memory_service_pb2_grpc import add_MemoryServiceServicer_to_server

from services.common.db.database import open_database
from services.common.grpcx.server import Registration
from services.common.service import Service
from services.memory.adapters.local_embedder import open_local_embedder
from services.memory.server.servicer import MemoryServicer, UseCases
from services.memory.settings import ServingSettings
from services.memory.storage.conversations import PostgresConversations
from services.memory.storage.memories import PostgresMemories
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

SCHEMA = "memory"


@asynccontextmanager
async def open_service(settings: ServingSettings) -> AsyncIterator[Service]:
    """The memory service over the database of `settings`, with the embedding model in this process."""
    async with (
        open_database(settings, SCHEMA) as database,
        open_local_embedder(settings.model_path, settings.tokenizer_path, settings.embedding_threads) as embedder,
    ):
        conversations = PostgresConversations(database)
        memories = PostgresMemories(database)
        use_cases = UseCases(
            create_conversation=CreateConversation(conversations),
            get_conversation=GetConversation(conversations),
            list_conversations=ListConversations(conversations),
            append_messages=AppendMessages(conversations),
            list_messages=ListMessages(conversations),
            create_memory=CreateMemory(memories, embedder),
            get_memory=GetMemory(memories),
            list_memories=ListMemories(memories),
            delete_memory=DeleteMemory(memories),
            search_memories=SearchMemories(memories, embedder),
        )
        yield Service(
            name="memory",
            registrations=[
                Registration(add_MemoryServiceServicer_to_server, MemoryServicer(use_cases), "guildmesh.memory.v1.MemoryService")
            ],
            checks={"database": database.check},
        )
