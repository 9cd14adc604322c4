"""Conversations and their messages (requirement row 16)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.common.json_values import JsonObject

NEW_CONVERSATION = "-"
"""id by which an append asks for a new conversation."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A line of messages of one user."""

    conversation_id: str
    title: str
    username: str
    create_time: datetime
    update_time: datetime
    """when its newest message was added."""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """What adds a message."""

    role: str
    """`user`, `assistant`, `system` or `tool`."""
    content: str
    metadata: JsonObject


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of a conversation."""

    number: int
    """1..N within the conversation, without gaps."""
    role: str
    content: str
    metadata: JsonObject
    create_time: datetime
