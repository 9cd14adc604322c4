"""The results of tasks that came before, as text for a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.agent.domain.work import ANSWER_FIELDS, EndedTask
from services.common.json_values import compact

RESULTS_LIMIT = 16_000
"""characters that all results together may take: enough for what several say, and not so much that they crowd out the task."""
_ERROR_LIMIT = 500


def describe(dependencies: Mapping[str, EndedTask], limit: int = RESULTS_LIMIT) -> str:
    """One paragraph for each dependency: its name, how it ended, and its result; one that is too long without its middle.

    Args:
        dependencies: by name, in the order in which they are told.
        limit: characters of all results together. Each may take an equal share, and what small ones leave goes to the others.
    """
    texts = {name: _said(ended) for name, ended in dependencies.items()}
    shares = dict(zip(texts, _shares([len(text) for text in texts.values()], limit), strict=True))
    return "\n\n".join(
        f"{compact(name)} ({ended.status}):\n{_cut(texts[name], shares[name])}" for name, ended in dependencies.items()
    )


def _said(ended: EndedTask) -> str:
    if ended.result_omitted:
        return f"[The result is not here: it is too large to be handed over, or no longer kept. Its task is {ended.task_id}.]"
    if ended.status == "completed":
        # Of what an agent answered, what it said: the provider and the counts of tokens beside it would only take room.
        answered = isinstance(ended.result, dict) and ended.result.keys() == ANSWER_FIELDS
        result = ended.result["response"] if answered and isinstance(ended.result, dict) else ended.result
        return result if isinstance(result, str) else compact(result)
    if ended.error_reason:
        return f"{ended.error_reason}: {ended.error_message}"[:_ERROR_LIMIT]
    return "[It has no result.]"


def _shares(sizes: Sequence[int], limit: int) -> list[int]:
    """How many characters each text may take: the smallest all they need, and the rest is shared by the larger ones."""
    shares = [0] * len(sizes)
    left = limit
    for count, index in enumerate(sorted(range(len(sizes)), key=lambda index: sizes[index])):
        shares[index] = min(sizes[index], left // (len(sizes) - count))
        left -= shares[index]
    return shares


def _cut(text: str, characters: int) -> str:
    """The text, or its beginning and end with what is said to be missing between: they say most."""
    if len(text) <= characters:
        return text
    head = (characters + 1) // 2
    tail = characters - head
    return f"{text[:head]}\n[… {len(text) - characters} of {len(text)} characters are left out …]\n{text[len(text) - tail :]}"
