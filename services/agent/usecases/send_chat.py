"""POST /chat (requirement row 18): a conversation with the default agent."""

from __future__ import annotations

from dataclasses import dataclass

from services.agent.domain.errors import ConversationNotFound
from services.agent.domain.language_model import ChatMessage, Completion
from services.agent.domain.ports import Conversations, LanguageModel
from services.common.json_values import JsonObject

INSTRUCTIONS = "You are a helpful assistant of the guildmesh agent system. Answer briefly and to the point."
# More than any model's window needs of a chat; what does not fit is left out, oldest first.
_HISTORY_MESSAGES = 50
_TITLE_CHARACTERS = 80
_MESSAGE_CHARACTERS = 50_000


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """The answer and where it stands."""

    conversation_id: str
    completion: Completion


class SendChat:
    """Reads the conversation, asks the model, and keeps question and answer together or not at all."""

    def __init__(self, conversations: Conversations, model: LanguageModel) -> None:
        self._conversations = conversations
        self._model = model

    async def __call__(self, message: str, conversation_id: str | None, timeout: float | None = None) -> ChatAnswer:
        """Answers a message.

        Args:
            message: what the user says.
            conversation_id: the conversation to go on with; None or empty starts one.
            timeout: seconds the caller waits at most, or None.

        Raises:
            ConversationNotFound: the caller has no such conversation.
            ModelUnavailable: no language model answers; nothing was kept.
        """
        # "-" is the memory service's own word for a new conversation, no caller's conversation.
        if conversation_id == "-":
            raise ConversationNotFound(conversation_id)
        known = conversation_id or None
        history = await self._conversations.history(known, _HISTORY_MESSAGES) if known else []
        question = ChatMessage("user", message)
        completion = await self._model.complete([ChatMessage("system", INSTRUCTIONS), *history, question], timeout=timeout)
        metadata: JsonObject = {
            "provider": completion.provider,
            "model": completion.model,
            "input_tokens": completion.input_tokens,
            "output_tokens": completion.output_tokens,
        }
        answer = ChatMessage("assistant", completion.text[:_MESSAGE_CHARACTERS])
        kept_in = await self._conversations.append(known, _title(message), [(question, {}), (answer, metadata)])
        return ChatAnswer(kept_in, completion)


def _title(message: str) -> str:
    words = " ".join(message.split())
    return words if len(words) <= _TITLE_CHARACTERS else words[: _TITLE_CHARACTERS - 1] + "…"
