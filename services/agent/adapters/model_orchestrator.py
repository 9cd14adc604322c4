"""The one language model that the use cases see (requirement row 19): picks the provider, spares it, repeats, counts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import stamina
from openai import AsyncOpenAI, DefaultAsyncHttpx2Client
from opentelemetry import trace

from services.agent.adapters.openai_compatible import OpenAICompatible, Provider
from services.agent.domain.errors import ModelUnavailable
from services.agent.domain.language_model import ChatMessage, Completion, ModelFailure, Say
from services.agent.settings import AgentSettings
from services.common.circuit_breaker import CircuitBreaker, CircuitOpen
from services.common.telemetry import metrics

_tracer = trace.get_tracer("guildmesh.agent")
# Requirement row 12.
ATTEMPTS = 3
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 10.0
# What a caller is asked to wait when the provider said nothing about it.
_RETRY_AFTER_SECONDS = 5.0
# Time to keep the answer that comes back within the caller's deadline.
_RESERVE_SECONDS = 0.5
LOCAL = "local"
OPENAI = "openai"
_OPENAI_URL = "https://api.openai.com/v1"
_NO_KEY = "none"
_LOCAL_MODEL = "local"
# The positions that the embedded model was trained on; its server tells the truth.
_LOCAL_CONTEXT_TOKENS = 2048
# A small model that samples freely loses the thread.
_LOCAL_TEMPERATURE = 0.2


class ProviderClient(Protocol):
    """A provider as the orchestrator uses it."""

    provider: Provider

    async def complete(
        self, messages: Sequence[ChatMessage], model: str, max_output_tokens: int, timeout: float, say: Say | None = None
    ) -> Completion:
        """One answer; raises ModelFailure."""
        ...


class ModelOrchestrator:
    """Implements LanguageModel over a provider.

    Each attempt goes through the circuit breaker of the provider (requirement row 11), which counts only connections that
    fail, timeouts and 5xx; the same, and rate limits, are tried 3 times with exponential waits of 1 s to 10 s (row 12), each of
    which the retry library logs.
    """

    def __init__(self, client: ProviderClient, timeout_seconds: float, breaker: CircuitBreaker | None = None) -> None:
        """Over one provider.

        Args:
            client: the provider.
            timeout_seconds: bound of one request.
            breaker: the provider's circuit; None for one with the plan's figures.
        """
        self._client = client
        self._timeout = timeout_seconds
        self._breaker = breaker or CircuitBreaker(f"llm-{client.provider.name}", _is_outage)

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        model: str = "",
        max_output_tokens: int = 0,
        timeout: float | None = None,
        say: Say | None = None,
    ) -> Completion:
        """Answers a conversation; see LanguageModel."""
        name = self._client.provider.name
        end = None if timeout is None else time.monotonic() + timeout - _RESERVE_SECONDS
        with _tracer.start_as_current_span(f"chat {model or self._client.provider.default_model}") as span:
            span.set_attribute("gen_ai.operation.name", "chat")
            span.set_attribute("gen_ai.provider.name", name)
            span.set_attribute("gen_ai.request.model", model or self._client.provider.default_model)
            if max_output_tokens:
                span.set_attribute("gen_ai.request.max_tokens", max_output_tokens)
            completion = await self._attempts(name, messages, model, max_output_tokens, end, say)
            span.set_attribute("gen_ai.response.model", completion.model)
            span.set_attribute("gen_ai.usage.input_tokens", completion.input_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", completion.output_tokens)
        metrics.llm_tokens_total.labels(completion.provider, completion.model).inc(
            completion.input_tokens + completion.output_tokens
        )
        return completion

    async def _attempts(
        self,
        name: str,
        messages: Sequence[ChatMessage],
        model: str,
        max_output_tokens: int,
        end: float | None,
        say: Say | None,
    ) -> Completion:
        async def ask() -> Completion:
            seconds = self._timeout if end is None else min(self._timeout, max(end - time.monotonic(), 0.1))
            return await self._client.complete(messages, model, max_output_tokens, seconds, say)

        @stamina.retry(
            on=_is_retryable,
            attempts=ATTEMPTS,
            timeout=None if end is None else max(end - time.monotonic(), 0.0),
            wait_initial=FIRST_WAIT_SECONDS,
            wait_max=LONGEST_WAIT_SECONDS,
        )
        async def ask_language_model() -> Completion:
            return await self._breaker.call(ask)

        try:
            return await ask_language_model()
        except CircuitOpen as error:
            raise ModelUnavailable(name, error.retry_after) from error
        except ModelFailure as error:
            raise ModelUnavailable(name, error.retry_after or _RETRY_AFTER_SECONDS, str(error)) from error


def _is_outage(error: BaseException) -> bool:
    return isinstance(error, ModelFailure) and error.outage


def _is_retryable(error: Exception) -> bool | float:
    if not isinstance(error, ModelFailure) or not error.retryable:
        return False
    return min(error.retry_after, LONGEST_WAIT_SECONDS) if error.retry_after else True


@asynccontextmanager
async def open_language_model(settings: AgentSettings) -> AsyncIterator[ModelOrchestrator]:
    """The language model of the default provider; opening it does not need the provider to be up."""
    if settings.llm_provider == OPENAI:
        # A server of one's own may ask for no key; the client always wants one.
        key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else _NO_KEY
        client = AsyncOpenAI(api_key=key, base_url=settings.openai_base_url or _OPENAI_URL, max_retries=0)
        provider = Provider(OPENAI, settings.openai_model, settings.openai_context_tokens)
    else:
        # A proxy of the environment must not be asked for a server on this machine.
        direct = DefaultAsyncHttpx2Client(trust_env=False)
        client = AsyncOpenAI(api_key=_NO_KEY, base_url=settings.local_llm_url, max_retries=0, http_client=direct)
        provider = Provider(LOCAL, _LOCAL_MODEL, _LOCAL_CONTEXT_TOKENS, temperature=_LOCAL_TEMPERATURE, fixed_model=True)
    async with client:
        yield ModelOrchestrator(OpenAICompatible(client, provider), settings.llm_timeout_seconds)
