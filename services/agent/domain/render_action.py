"""An action with its references replaced by what they stand for."""

from __future__ import annotations

from typing import cast

from services.agent.domain.references import as_text, render
from services.agent.domain.scenario import Action, ModelAction, RecallAction, RememberAction, ToolAction
from services.common.json_values import JsonObject, JsonValue

# What the memory service takes as one text.
_TEXT_CHARACTERS = 50_000


def render_action(action: Action, inputs: JsonObject, outputs: JsonObject) -> Action:
    """The action as its agent is given it; the same for the same inputs and outputs.

    Raises:
        InvalidReference: a reference stands for nothing.
    """
    match action:
        case ModelAction(prompt, max_output_tokens):
            return ModelAction(as_text(render(prompt, inputs, outputs)), max_output_tokens)
        case ToolAction(tool_name, arguments):
            return ToolAction(tool_name, cast(JsonObject, render(arguments, inputs, outputs)))
        case RememberAction(contents):
            return RememberAction(tuple(_texts([render(content, inputs, outputs) for content in contents])))
        case RecallAction(query, limit):
            return RecallAction(as_text(render(query, inputs, outputs))[:10_000], limit)


def _texts(contents: list[JsonValue]) -> list[str]:
    """One text for each content; a content that stands for a list gives each of its items."""
    texts: list[str] = []
    for content in contents:
        for item in content if isinstance(content, list) else [content]:
            text = as_text(item).strip()
            if text:
                texts.append(text[:_TEXT_CHARACTERS])
    return texts
