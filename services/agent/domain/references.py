"""References in the texts of a scenario: ${inputs.NAME} and ${steps.STEP.PATH}.

A path is names and list positions with dots between them: ${steps.find.memories.0.content}. A reference that stands alone
keeps the value's JSON type; inside a text, texts stand as they are and other values as compact JSON. `$${` is a plain `${`.
Values are put in once and never read again for references, and nothing is evaluated: data cannot become a reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from services.common.json_values import JsonObject, JsonValue, compact, whole_numbers

_TOKEN = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_PATH = re.compile(r"^(inputs|steps)(\.[A-Za-z0-9_-]+)+$")


class InvalidReference(ValueError):
    """A reference that is badly written, or that nothing stands for; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference."""

    text: str
    """the reference without its braces, such as "inputs.csv"."""

    @property
    def root(self) -> str:
        """Either "inputs" or "steps"."""
        return self.text.split(".", 1)[0]

    @property
    def path(self) -> list[str]:
        """The names after the root."""
        return self.text.split(".")[1:]


def references_in(value: JsonValue) -> Iterator[Reference]:
    """All references in the texts of `value`, also inside lists and objects.

    Raises:
        InvalidReference: a reference is badly written.
    """
    if isinstance(value, str):
        for token in _TOKEN.finditer(value):
            if token.group() != "$${":
                yield _parse(token)
    elif isinstance(value, list):
        for item in value:
            yield from references_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from references_in(item)


def render(value: JsonValue, inputs: JsonObject, outputs: JsonObject) -> JsonValue:
    """`value` with its references replaced by what they stand for.

    Args:
        value: a text, or a list or object with texts.
        inputs: the inputs of the run.
        outputs: the outputs of completed steps by step_id.

    Raises:
        InvalidReference: a reference is badly written or stands for nothing.
    """
    if isinstance(value, str):
        return _render_text(value, {"inputs": inputs, "steps": outputs})
    if isinstance(value, list):
        return [render(item, inputs, outputs) for item in value]
    if isinstance(value, dict):
        return {name: render(item, inputs, outputs) for name, item in value.items()}
    return value


def as_text(value: JsonValue) -> str:
    """How a value stands inside a text."""
    return value if isinstance(value, str) else compact(value)


def _render_text(text: str, known: JsonObject) -> JsonValue:
    alone = _TOKEN.fullmatch(text)
    if alone is not None and alone.group() != "$${":
        return whole_numbers(_look_up(_parse(alone), known))
    return _TOKEN.sub(lambda token: "${" if token.group() == "$${" else as_text(_look_up(_parse(token), known)), text)


def _parse(token: re.Match[str]) -> Reference:
    inner = token.group(1)
    if inner is None:
        raise InvalidReference("A '${' is not closed; write ${inputs.NAME} or ${steps.STEP.PATH}, or $${ for a plain '${'.")
    if not _PATH.match(inner.strip()):
        raise InvalidReference(
            f"${{{inner}}} is not a reference; write ${{inputs.NAME}} or ${{steps.STEP.PATH}}, or $${{ for a plain '${{'."
        )
    return Reference(inner.strip())


def _look_up(reference: Reference, known: JsonObject) -> JsonValue:
    value: JsonValue = known[reference.root]
    seen = reference.root
    for name in reference.path:
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isascii() and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise InvalidReference(f"${{{reference.text}}} stands for nothing: {seen} has {_what_it_has(value)}, not {name!r}.")
        seen = f"{seen}.{name}"
    return value


def _what_it_has(value: JsonValue) -> str:
    if isinstance(value, dict):
        names = sorted(value)
        return ", ".join(names[:20]) + (" and more" if len(names) > 20 else "") if names else "no names"
    if isinstance(value, list):
        return f"the positions 0 to {len(value) - 1}" if value else "no items"
    return "nothing inside it"
