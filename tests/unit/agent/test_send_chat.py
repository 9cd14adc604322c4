"""Chat with a stubbed language model (requirement row 24)."""

from __future__ import annotations

import pytest

from services.agent.domain.errors import ConversationNotFound, ModelUnavailable
from services.agent.usecases.send_chat import SendChat
from tests.support.agent_doubles import InMemoryConversations, InMemoryModel


@pytest.fixture
def conversations() -> InMemoryConversations:
    return InMemoryConversations()


@pytest.fixture
def model() -> InMemoryModel:
    return InMemoryModel()


@pytest.fixture
def chat(conversations: InMemoryConversations, model: InMemoryModel) -> SendChat:
    return SendChat(conversations, model)


@pytest.mark.parametrize("nothing", [None, ""])
async def test_a_chat_without_a_conversation_starts_one(
    chat: SendChat, conversations: InMemoryConversations, nothing: str | None
) -> None:
    answer = await chat("Hello,\n  there", nothing)
    assert answer.completion.text == "You said: Hello,\n  there"
    assert [message.role for message in conversations.kept[answer.conversation_id]] == ["user", "assistant"]
    assert conversations.titles[answer.conversation_id] == "Hello, there"


async def test_a_conversation_goes_on_with_what_was_said_before(chat: SendChat, model: InMemoryModel) -> None:
    first = await chat("My name is Ada.", None)
    second = await chat("What is my name?", first.conversation_id)
    assert second.conversation_id == first.conversation_id
    assert [message.role for message in model.asked[1]] == ["system", "user", "assistant", "user"]
    assert model.asked[1][1].content == "My name is Ada."


@pytest.mark.parametrize("unknown", ["conversation-9", "-"])
async def test_an_unknown_conversation_is_told_before_the_model_is_asked(
    chat: SendChat, model: InMemoryModel, unknown: str
) -> None:
    with pytest.raises(ConversationNotFound, match="leave conversation_id out"):
        await chat("Hello", unknown)
    assert model.asked == []


async def test_nothing_is_kept_when_the_model_does_not_answer(
    chat: SendChat, model: InMemoryModel, conversations: InMemoryConversations
) -> None:
    model.unavailable = True
    with pytest.raises(ModelUnavailable):
        await chat("Hello", None)
    assert conversations.kept == {}


async def test_a_long_first_message_gives_a_short_title(chat: SendChat, conversations: InMemoryConversations) -> None:
    answer = await chat("word " * 100, None)
    assert len(conversations.titles[answer.conversation_id]) == 80
