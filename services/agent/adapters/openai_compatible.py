"""A provider with the OpenAI API: OpenAI itself, the local model, or any server that speaks it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, OpenAIError, RateLimitError, omit
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from services.agent.domain.context_window import fit
from services.agent.domain.language_model import ChatMessage, Completion, ModelFailure

_DEFAULT_OUTPUT_TOKENS = 256
# Attempts to bring a conversation below a window that turned out smaller than it was estimated.
_FITTINGS = 4


@dataclass(frozen=True, slots=True)
class Provider:
    """How a provider differs from the others."""

    name: str
    default_model: str
    """model to ask for when the agent names none."""
    context_tokens: int
    """context window, until the server tells its own."""
    temperature: float | None = None
    """sampling temperature; None for the model's own."""
    fixed_model: bool = False
    """the server has one model, and ignores which is asked for."""


class OpenAICompatible:
    """Asks one provider; retries, circuit and metrics are the caller's."""

    def __init__(self, client: AsyncOpenAI, provider: Provider) -> None:
        """Uses a client that makes no retries of its own.

        Args:
            client: its base_url and key are the provider's.
            provider: how it differs.
        """
        self.provider = provider
        self._client = client
        self._context_tokens = provider.context_tokens
        self._asked_window = not provider.fixed_model

    async def complete(self, messages: Sequence[ChatMessage], model: str, max_output_tokens: int, timeout: float) -> Completion:
        """One answer.

        Args:
            messages: the conversation; the oldest that do not fit the window are left out.
            model: name of the model; empty for the default.
            max_output_tokens: bound of the answer; 0 for 256.
            timeout: seconds to wait for the answer.

        Raises:
            ModelFailure: there is none.
        """
        wanted = max_output_tokens or _DEFAULT_OUTPUT_TOKENS
        try:
            await self._learn_window()
            window = self._context_tokens
            # The answer gets at most half of the window, so that there is something to answer.
            output = min(wanted, window // 2)
            budget = window - output
            for _ in range(_FITTINGS):
                try:
                    return self._completion(await self._ask(fit(messages, budget), model, output, timeout))
                except APIStatusError as error:
                    excess = _excess(error)
                    if excess is None:
                        raise
                    budget = max(int(budget * excess * 0.9), 64)
            raise ModelFailure("the message does not fit the model's context window", outage=False, retryable=False)
        except OpenAIError as error:
            raise _failure(error) from error

    async def check(self) -> None:
        """Raises ModelFailure when the provider does not answer."""
        try:
            await self._client.models.list(timeout=2)
        except OpenAIError as error:
            raise _failure(error) from error

    async def _ask(self, messages: list[ChatMessage], model: str, output: int, timeout: float) -> ChatCompletion:
        return await self._client.chat.completions.create(
            model=self.provider.default_model if self.provider.fixed_model or not model else model,
            messages=cast(
                Iterable[ChatCompletionMessageParam],
                [{"role": message.role, "content": message.content} for message in messages],
            ),
            max_completion_tokens=output,
            temperature=omit if self.provider.temperature is None else self.provider.temperature,
            timeout=timeout,
        )

    async def _learn_window(self) -> None:
        """Asks a llama.cpp server once for the window that it was started with."""
        if self._asked_window:
            return
        async for model in self._client.models.list(timeout=5):
            meta = (model.model_extra or {}).get("meta")
            if isinstance(meta, dict) and isinstance(meta.get("n_ctx"), int):
                self._context_tokens = max(meta["n_ctx"], 256)
        self._asked_window = True

    def _completion(self, answer: ChatCompletion) -> Completion:
        if not answer.choices:
            raise ModelFailure("the answer has no choices", outage=False, retryable=True)
        usage = answer.usage
        return Completion(
            text=_clean(answer.choices[0].message.content or ""),
            provider=self.provider.name,
            model=_clean(answer.model),
            input_tokens=usage.prompt_tokens if usage else 0,
            output_tokens=usage.completion_tokens if usage else 0,
        )


def _clean(text: str) -> str:
    """The text without what a protobuf string or PostgreSQL cannot hold: lone surrogates and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "").strip()


def _excess(error: APIStatusError) -> float | None:
    """The window as a share of what was sent, when the server refused a conversation for its length; else None."""
    if error.status_code != 400 or not isinstance(error.body, dict):
        return None
    kind = error.body.get("code") if isinstance(error.body.get("code"), str) else error.body.get("type")
    if kind == "exceed_context_size_error":
        sent, window = error.body.get("n_prompt_tokens"), error.body.get("n_ctx")
        if isinstance(sent, int) and isinstance(window, int) and sent > window > 0:
            return window / sent
        return 0.5
    return 0.5 if kind == "context_length_exceeded" else None


def _failure(error: OpenAIError) -> ModelFailure:
    if isinstance(error, APITimeoutError):
        return ModelFailure("gave no answer in time", outage=True, retryable=True)
    if isinstance(error, APIConnectionError):
        return ModelFailure("does not answer", outage=True, retryable=True)
    if isinstance(error, RateLimitError):
        return ModelFailure("is over its rate limit", outage=False, retryable=True, retry_after=_retry_after(error))
    if isinstance(error, APIStatusError):
        if error.status_code >= 500:
            return ModelFailure(f"answers with HTTP {error.status_code}", outage=True, retryable=True)
        if error.status_code in (401, 403):
            return ModelFailure(f"refuses the key (HTTP {error.status_code}); check its API key", outage=False, retryable=False)
        return ModelFailure(f"refuses the request (HTTP {error.status_code})", outage=False, retryable=False)
    return ModelFailure("gave an answer that could not be read", outage=False, retryable=False)


def _retry_after(error: APIStatusError) -> float | None:
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 < seconds < 3600 else None
