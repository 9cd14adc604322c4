"""A provider with the OpenAI API: OpenAI itself, the local model, or any server that speaks it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AsyncStream,
    OpenAIError,
    RateLimitError,
    omit,
)
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam

from services.agent.domain.context_window import fit
from services.agent.domain.language_model import ChatMessage, Completion, ModelFailure, Say

_DEFAULT_OUTPUT_TOKENS = 256
# Attempts to bring a conversation below a window that turned out smaller than it was estimated.
_FITTINGS = 4
_OUT_OF_TIME = ModelFailure("gave no answer in time", outage=True, retryable=True)


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

    async def complete(
        self, messages: Sequence[ChatMessage], model: str, max_output_tokens: int, timeout: float, say: Say | None = None
    ) -> Completion:
        """One answer.

        Args:
            messages: the conversation; the oldest that do not fit the window are left out.
            model: name of the model; empty for the default.
            max_output_tokens: bound of the answer; 0 for 256.
            timeout: seconds to wait for the answer.
            say: gets the answer piece by piece while it comes.

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
                    fitting = fit(messages, budget)
                    if say is not None:
                        return await self._hear(fitting, model, output, timeout, say)
                    return self._completion(await self._ask(fitting, model, output, timeout))
                except APIStatusError as error:
                    excess = _excess(error)
                    if excess is None:
                        raise
                    budget = max(int(budget * excess * 0.9), 64)
            raise ModelFailure("the message does not fit the model's context window", outage=False, retryable=False)
        except OpenAIError as error:
            raise _failure(error) from error
        except TimeoutError as error:
            raise _OUT_OF_TIME from error

    async def check(self) -> None:
        """Raises ModelFailure when the provider does not answer."""
        try:
            await self._client.models.list(timeout=2)
        except OpenAIError as error:
            raise _failure(error) from error

    async def _ask(self, messages: list[ChatMessage], model: str, output: int, timeout: float) -> ChatCompletion:
        return await self._client.chat.completions.create(
            model=self._model(model),
            messages=_as_sent(messages),
            max_completion_tokens=output,
            temperature=omit if self.provider.temperature is None else self.provider.temperature,
            timeout=timeout,
        )

    async def _hear(self, messages: list[ChatMessage], model: str, output: int, timeout: float, say: Say) -> Completion:
        """Asks for the answer piece by piece. Once something was said, a failure is final: a repeat would say it again."""
        parts: list[str] = []
        answered, read, written = model, 0, 0
        try:
            async with asyncio.timeout(timeout), await self._stream(messages, model, output, timeout) as pieces:
                async for piece in pieces:
                    answered = piece.model or answered
                    if piece.usage is not None:
                        read, written = piece.usage.prompt_tokens, piece.usage.completion_tokens
                    for choice in piece.choices[:1]:
                        # The first piece of many servers has no text, the role alone.
                        if text := _writable(choice.delta.content or ""):
                            parts.append(text)
                            await say(text)
        except (OpenAIError, TimeoutError) as error:
            failure = _failure(error) if isinstance(error, OpenAIError) else _OUT_OF_TIME
            if not parts:
                raise
            raise ModelFailure(f"{failure} in the middle of its answer", outage=failure.outage, retryable=False) from error
        if not parts and not written:
            raise ModelFailure("the answer has no pieces", outage=False, retryable=True)
        return Completion("".join(parts).strip(), self.provider.name, _clean(answered), read, written)

    async def _stream(
        self, messages: list[ChatMessage], model: str, output: int, timeout: float
    ) -> AsyncStream[ChatCompletionChunk]:
        return await self._client.chat.completions.create(
            model=self._model(model),
            messages=_as_sent(messages),
            max_completion_tokens=output,
            temperature=omit if self.provider.temperature is None else self.provider.temperature,
            timeout=timeout,
            stream=True,
            stream_options={"include_usage": True},
        )

    def _model(self, model: str) -> str:
        return self.provider.default_model if self.provider.fixed_model or not model else model

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


def _as_sent(messages: Sequence[ChatMessage]) -> Iterable[ChatCompletionMessageParam]:
    return cast(
        Iterable[ChatCompletionMessageParam], [{"role": message.role, "content": message.content} for message in messages]
    )


def _clean(text: str) -> str:
    return _writable(text).strip()


def _writable(text: str) -> str:
    """The text without what a protobuf string or PostgreSQL cannot hold: lone surrogates and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "")


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
