"""What is said to a language model, and what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]
Say = Callable[[str], Awaitable[None]]
"""Takes the next piece of an answer."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One entry of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer of a language model."""

    text: str
    provider: str
    """name of the provider, such as "local" or "openai"."""
    model: str
    """name of the model that answered, as the provider tells it."""
    input_tokens: int
    """tokens the model read."""
    output_tokens: int
    """tokens the model wrote."""


class ModelFailure(Exception):
    """A provider gave no answer.

    Attributes:
        outage: the provider is down or unreachable (connection, timeout, 5xx): counted by the circuit breaker.
        retryable: a repeat a little later may succeed: an outage, or a rate limit.
        retry_after: seconds the provider asked to wait, or None.
    """

    def __init__(self, message: str, *, outage: bool, retryable: bool, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.outage = outage
        self.retryable = retryable
        self.retry_after = retry_after
