"""Between messages and domain objects."""

from __future__ import annotations

from datetime import datetime

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from guildmesh.memory.v1 import memory_service_pb2 as pb

from services.common.errors import InvalidRequest
from services.common.json_values import JsonObject
from services.common.structs import json_to_struct, struct_to_json
from services.memory.domain.conversation import Conversation, Message, NewMessage
from services.memory.domain.memory import Match, Memory, NewMemory


def conversation_to_proto(conversation: Conversation) -> pb.Conversation:
    """A conversation as a message."""
    return pb.Conversation(
        conversation_id=conversation.conversation_id,
        title=conversation.title,
        username=conversation.username,
        create_time=_timestamp(conversation.create_time),
        update_time=_timestamp(conversation.update_time),
    )


def new_messages_from_proto(request: pb.AppendMessagesRequest) -> list[NewMessage]:
    """What a request asks to add."""
    return [
        NewMessage(message.role, message.content, _metadata(message.metadata, f"messages[{index}].metadata"))
        for index, message in enumerate(request.messages)
    ]


def message_to_proto(message: Message) -> pb.Message:
    """A conversation's message as a message."""
    return pb.Message(
        number=message.number,
        role=message.role,
        content=message.content,
        metadata=json_to_struct(message.metadata),
        create_time=_timestamp(message.create_time),
    )


def new_memory_from_proto(request: pb.CreateMemoryRequest) -> NewMemory:
    """What a request asks to remember."""
    memory = request.memory
    return NewMemory(memory.content, memory.owner, _metadata(memory.metadata, "memory.metadata"), request.request_id)


def memory_to_proto(memory: Memory) -> pb.Memory:
    """A memory as a message."""
    return pb.Memory(
        memory_id=memory.memory_id,
        content=memory.content,
        owner=memory.owner,
        metadata=json_to_struct(memory.metadata),
        create_time=_timestamp(memory.create_time),
    )


def match_to_proto(match: Match) -> pb.MemoryMatch:
    """A match as a message."""
    return pb.MemoryMatch(memory=memory_to_proto(match.memory), score=match.score)


def _metadata(struct: Struct, field: str) -> JsonObject:
    try:
        return struct_to_json(struct)
    except (json_format.Error, ValueError) as error:
        # A Struct can hold NaN and infinity, JSON cannot.
        raise InvalidRequest([(field, "must hold finite numbers only")]) from error


def _timestamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message
