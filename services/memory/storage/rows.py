"""Rows of the schema `memory` as domain objects."""

from __future__ import annotations

import json
from typing import Any

from services.memory.domain.conversation import Conversation, Message
from services.memory.domain.memory import Memory

MESSAGE_COLUMNS = "number, role, content, CAST(metadata AS text) AS metadata, create_time"
MEMORY_COLUMNS = "memory_id, content, owner, CAST(metadata AS text) AS metadata, create_time"


def conversation_from_row(row: Any) -> Conversation:
    """A conversation from a row with its columns."""
    return Conversation(str(row.conversation_id), row.title, row.username, row.create_time, row.update_time)


def message_from_row(row: Any) -> Message:
    """A message from a row with MESSAGE_COLUMNS."""
    return Message(row.number, row.role, row.content, json.loads(row.metadata), row.create_time)


def memory_from_row(row: Any) -> Memory:
    """A memory from a row with MEMORY_COLUMNS."""
    return Memory(str(row.memory_id), row.content, row.owner, json.loads(row.metadata), row.create_time)
