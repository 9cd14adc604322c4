"""Runs a task of the kind agent.task (requirement row 18): an agent answers its text, using its context and earlier results."""

from __future__ import annotations

from services.agent.domain.finished_work import describe
from services.agent.domain.language_model import ChatMessage
from services.agent.domain.ports import LanguageModel
from services.agent.domain.work import Attempt
from services.common.json_values import JsonObject, compact

INSTRUCTIONS = (
    "You do tasks for the user. Do what the task says, use the context and the results of earlier tasks if there are any,"
    " and give only the result."
)
_OUTPUT_TOKENS = 512


class AnswerTask:
    """Asks the language model."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    async def __call__(self, attempt: Attempt) -> JsonObject:
        """The result {response, provider, model, input_tokens, output_tokens}; raises ModelUnavailable."""
        # The task last: what does not fit is cut from a text's middle, and the task itself must stay.
        parts = [attempt.description]
        if attempt.context:
            parts.insert(0, f"Context:\n{compact(attempt.context)}")
        if attempt.dependencies:
            parts.insert(0, f"Results of earlier tasks:\n{describe(attempt.dependencies)}")
        if len(parts) > 1:
            parts[-1] = f"Task:\n{attempt.description}"
        completion = await self._model.complete(
            [ChatMessage("system", INSTRUCTIONS), ChatMessage("user", "\n\n".join(parts))],
            max_output_tokens=_OUTPUT_TOKENS,
            timeout=attempt.remaining_seconds,
            say=attempt.put_out,
        )
        return {
            "response": completion.text,
            "provider": completion.provider,
            "model": completion.model,
            "input_tokens": completion.input_tokens,
            "output_tokens": completion.output_tokens,
        }
