"""Fits a conversation into a model's context window.

There is no tokenizer for every provider's model at hand, so tokens are estimated, and rather too many than too few: letters
in threes, everything else (digits, punctuation, each byte beyond ASCII) one by one, as byte-level tokenizers do at worst.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace

from services.agent.domain.language_model import ChatMessage

# What the chat template adds around a message: markers, the role, line ends.
_MESSAGE_OVERHEAD = 8
_OMITTED = "\n[…]\n"
_LETTERS = (string.ascii_letters + " ").encode()
_LETTERS_A_TOKEN = 3


def estimate_tokens(text: str) -> int:
    """An upper estimate of the tokens in `text`."""
    encoded = text.encode(errors="replace")
    others = len(encoded.translate(None, _LETTERS))
    return (len(encoded) - others) // _LETTERS_A_TOKEN + others + 1


def fit(messages: Sequence[ChatMessage], budget: int) -> list[ChatMessage]:
    """The messages that fit into `budget` tokens: instructions and the newest message always, then the newest history.

    What must be there and does not fit is shortened in its middle, because a text's beginning and end say most.

    Args:
        messages: system messages first, then the conversation, oldest first; at least one.
        budget: tokens the model may read.
    """
    system = [message for message in messages if message.role == "system"]
    talk = [message for message in messages if message.role != "system"]
    newest = talk[-1:]
    needed = system + newest
    room = budget - _MESSAGE_OVERHEAD * len(needed)
    # Instructions get at most half of the window, so that the question is always read.
    kept_system = [replace(m, content=shorten(m.content, max(room // (2 * len(system)), 1))) for m in system]
    room -= sum(estimate_tokens(message.content) for message in kept_system)
    kept_newest = [replace(m, content=shorten(m.content, max(room, 1))) for m in newest]
    room -= sum(estimate_tokens(message.content) for message in kept_newest)
    history: list[ChatMessage] = []
    for message in reversed(talk[:-1]):
        cost = estimate_tokens(message.content) + _MESSAGE_OVERHEAD
        if cost > room:
            break
        room -= cost
        history.append(message)
    # An answer without its question confuses a model more than it helps.
    while history and history[-1].role == "assistant":
        history.pop()
    return [*kept_system, *reversed(history), *kept_newest]


def shorten(text: str, tokens: int) -> str:
    """`text`, or its beginning and end with a mark between them, so that it is estimated at no more than `tokens`."""
    # Of a text of many megabytes only as much is looked at as may fit.
    most = _LETTERS_A_TOKEN * tokens
    if len(text) <= most and estimate_tokens(text) <= tokens:
        return text
    low, high = 0, min(len(text), most)
    while low < high:
        middle = (low + high + 1) // 2
        if estimate_tokens(_cut(text, middle)) <= tokens:
            low = middle
        else:
            high = middle - 1
    return _cut(text, low)


def _cut(text: str, characters: int) -> str:
    head = (characters + 1) // 2
    tail = characters - head
    return text[:head] + _OMITTED + (text[-tail:] if tail else "")
