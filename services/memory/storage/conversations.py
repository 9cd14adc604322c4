"""Conversations and messages, in PostgreSQL.

An append is one statement: the update of the conversation's counter takes its row lock, so appends to one conversation go one
after another and numbers have no gap, while other conversations go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.context import Principal
from services.common.db.database import Database
from services.common.ids import is_id, new_id
from services.common.json_values import compact
from services.memory.domain.conversation import Conversation, Message, NewMessage
from services.memory.domain.errors import ConversationNotFound
from services.memory.storage.rows import MESSAGE_COLUMNS, conversation_from_row, message_from_row

_MINE = "tenant_id = :tenant_id AND username = :username"
_COLUMNS = "conversation_id, title, username, create_time, update_time"
_CREATE = text(
    f"""
    INSERT INTO conversations (tenant_id, conversation_id, username, title)
    VALUES (:tenant_id, CAST(:id AS uuid), :username, :title) RETURNING {_COLUMNS}
    """  # noqa: S608 - the columns are ours, here and below
)
_GET = text(f"SELECT {_COLUMNS} FROM conversations WHERE {_MINE} AND conversation_id = CAST(:id AS uuid)")  # noqa: S608
_LIST = text(
    f"""
    SELECT {_COLUMNS} FROM conversations
    WHERE {_MINE} AND (CAST(:before AS uuid) IS NULL OR conversation_id < CAST(:before AS uuid))
    ORDER BY conversation_id DESC LIMIT :limit
    """  # noqa: S608
)
_ADD = """
    INSERT INTO messages (tenant_id, conversation_id, number, role, content, metadata, create_time)
    SELECT :tenant_id, CAST(:id AS uuid), conversation.last_number - :count + new.number, new.role, new.content,
           CAST(new.metadata AS jsonb), conversation.update_time
    FROM conversation,
         unnest(CAST(:roles AS text[]), CAST(:contents AS text[]), CAST(:metadata AS text[]))
           WITH ORDINALITY AS new (role, content, metadata, number)
    RETURNING number, create_time
    """
_START = text(
    f"""
    WITH conversation AS (
      INSERT INTO conversations (tenant_id, conversation_id, username, title, last_number)
      VALUES (:tenant_id, CAST(:id AS uuid), :username, :title, :count) RETURNING last_number, update_time
    ) {_ADD}
    """  # noqa: S608
)
_APPEND = text(
    f"""
    WITH conversation AS (
      UPDATE conversations SET last_number = last_number + :count, update_time = clock_timestamp()
      WHERE {_MINE} AND conversation_id = CAST(:id AS uuid) RETURNING last_number, update_time
    ) {_ADD}
    """  # noqa: S608
)
_LIST_MESSAGES = text(
    f"""
    SELECT {MESSAGE_COLUMNS} FROM messages
    WHERE tenant_id = :tenant_id AND conversation_id = CAST(:id AS uuid)
      AND (CAST(:before AS integer) IS NULL OR number < CAST(:before AS integer))
    ORDER BY number DESC LIMIT :limit
    """  # noqa: S608
)


class PostgresConversations:
    """Implements the port Conversations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, owner: Principal, title: str) -> Conversation:
        """An empty conversation."""
        async with self._database.tenant(owner.tenant_id) as connection:
            result = await connection.execute(_CREATE, _of(owner, new_id()) | {"title": title})
            return conversation_from_row(result.one())

    async def get(self, owner: Principal, conversation_id: str) -> Conversation:
        """One conversation. Raises ConversationNotFound."""
        async with self._database.tenant(owner.tenant_id) as connection:
            return await _get(connection, owner, conversation_id)

    async def page(self, owner: Principal, limit: int, before: str | None) -> list[Conversation]:
        """At most `limit` conversations, newest first."""
        async with self._database.tenant(owner.tenant_id) as connection:
            parameters = {"tenant_id": owner.tenant_id, "username": owner.subject, "before": before, "limit": limit}
            return [conversation_from_row(row) for row in await connection.execute(_LIST, parameters)]

    async def start(self, owner: Principal, title: str, messages: Sequence[NewMessage]) -> tuple[str, list[Message]]:
        """A new conversation with messages, all or none."""
        conversation_id = new_id()
        async with self._database.tenant(owner.tenant_id) as connection:
            parameters = _of(owner, conversation_id) | _arrays(messages) | {"title": title}
            stored = (await connection.execute(_START, parameters)).all()
        return conversation_id, _stored(messages, stored)

    async def append(self, owner: Principal, conversation_id: str, messages: Sequence[NewMessage]) -> list[Message]:
        """Adds messages, all or none. Raises ConversationNotFound."""
        if not is_id(conversation_id):
            raise ConversationNotFound(conversation_id)
        async with self._database.tenant(owner.tenant_id) as connection:
            result = await connection.execute(_APPEND, _of(owner, conversation_id) | _arrays(messages))
            stored = result.all()
        if not stored:
            raise ConversationNotFound(conversation_id)
        return _stored(messages, stored)

    async def page_of_messages(self, owner: Principal, conversation_id: str, limit: int, before: int | None) -> list[Message]:
        """At most `limit` messages, newest first. Raises ConversationNotFound."""
        async with self._database.tenant(owner.tenant_id) as connection:
            await _get(connection, owner, conversation_id)
            parameters = {"tenant_id": owner.tenant_id, "id": conversation_id, "before": before, "limit": limit}
            return [message_from_row(row) for row in await connection.execute(_LIST_MESSAGES, parameters)]


async def _get(connection: AsyncConnection, owner: Principal, conversation_id: str) -> Conversation:
    if not is_id(conversation_id):
        raise ConversationNotFound(conversation_id)
    row = (await connection.execute(_GET, _of(owner, conversation_id))).one_or_none()
    if row is None:
        raise ConversationNotFound(conversation_id)
    return conversation_from_row(row)


def _of(owner: Principal, conversation_id: str) -> dict[str, object]:
    return {"tenant_id": owner.tenant_id, "username": owner.subject, "id": conversation_id}


def _arrays(messages: Sequence[NewMessage]) -> dict[str, object]:
    return {
        "count": len(messages),
        "roles": [message.role for message in messages],
        "contents": [message.content for message in messages],
        "metadata": [compact(message.metadata) for message in messages],
    }


def _stored(messages: Sequence[NewMessage], rows: Sequence[Any]) -> list[Message]:
    """The messages as stored; RETURNING promises no order, but numbers rise with the messages."""
    return [
        Message(row.number, message.role, message.content, message.metadata, row.create_time)
        for message, row in zip(messages, sorted(rows, key=lambda row: int(row.number)), strict=True)
    ]
